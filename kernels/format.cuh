// The contract of a weight format, and the functions that kernels decode weights with.
//
// A source is compiled for one format: MMVQ_FORMAT is its GGML type number, MMVQ_FAMILY its file in formats/, and
// MMVQ_BLOCK_SIZE (weights), MMVQ_TYPE_SIZE (bytes) are gguf's figures. A block format provides
//   Block                  the exact bytes of one block; each struct says how far rows are aligned
//   block_size             weights per block, a multiple of 32
//   scale_group            weights that share a scale
//   is_split               how octets (8 weights each) lie in a row. False: octet o is weights [8*o, 8*o + 8). True: it is 4
//                          weights of each half of 32: 32*(o/4) + 4*(o%4) + {0..3} and + {16..19}; for formats whose
//                          halves share bytes or have scales of their own
//   unpack(block, octet)   one octet of a block, as an Octet or OffsetOctet: byte codes and the scale that makes them
//                          bit-equal to ggml's C dequantizer
// and reads no byte outside the block. It may provide
//   unpack_integers(block, octet)  the same octet as a SignedOctet or SummedOctet, where that is shorter, for products of integers
//   Head                   what a lane keeps of 256 weights of a row; `head(row, t, grid)` makes it, and
//   unpack_integers(head, row, octet)  uses it, where octets share work
//   digit_grid_words, digit_grid_word  the codebook that `grid` then has, 32-bit words, when there is one
//   Quarters               where scales of 32 weights are integers of a byte: all `scales` of a block, `d`, the `mins` of lane t and
//                          `dmin`; codes of odd groups are given 2^odd_shift times
//   quarters(block, t)     and
//   quarter(quarters, block, t, q, codes)  unsigned codes of octet t of groups 2q and 2q + 1
// Where scales are small integers (formats/fold.cuh) it also provides
//   Strip                  what a lane keeps of its strip t of 256 weights; `d`: the factor of the sum over the block; where
//                          offsets are small integers too, `mins`: bfloat16 pairs of them, and their factor `dmin`
//   strip(block, t, grid)  a block of 64 weights is strip t of its run itself
//   fold(strip, i, pairs)  octet i of the strip as f16, weights (0, 2), (1, 3), (4, 6), (5, 7)
//   strip_weight(t, i, e)  which weight of the run is weight e of octet i; 0 to 3 and 4 to 7 are neighbours. Octet i belongs to
//                          pair i % (number of pairs) of `mins`: its first four weights to the lower half
//   grid_words, entry_words, grid_word  the codebook that `grid` has: 32-bit words, of an entry (1 or 2), and each, when there is one
// and reads no byte outside the block. Plain floats (block_size 1) are described in formats/plain.cuh.

#include "ptx.cuh"
#include "formats/fold.cuh"

template <int Id>
struct Format;

#include "formats/MMVQ_FAMILY.cuh"

using WeightFormat = Format<MMVQ_FORMAT>;
static_assert(sizeof(WeightFormat::Block) == MMVQ_TYPE_SIZE, "the block struct and gguf's table differ in bytes");
static_assert(WeightFormat::block_size == MMVQ_BLOCK_SIZE, "the format struct and gguf's table differ in weights");

// Bytes of one packed row of `n_cols` weights.
DEVICE int64_t row_bytes(int n_cols) { return static_cast<int64_t>(n_cols / MMVQ_BLOCK_SIZE) * MMVQ_TYPE_SIZE; }

// Where weight i (0 to 7) of an octet lies in its row.
template <typename F = WeightFormat>
DEVICE constexpr int32_t weight_in_row(uint32_t octet, uint32_t i) {
    if constexpr (F::is_split) return static_cast<int32_t>(32 * (octet / 4) + 4 * (octet % 4) + i % 4 + 16 * (i / 4));
    else return static_cast<int32_t>(8 * octet + i);
}

// Unpacks an octet of a row in a block format: for kernels that put the scale on a sum.
template <typename F = WeightFormat>
DEVICE auto unpack_octet(const uint8_t* row, uint32_t octet) {
    constexpr uint32_t octets = F::block_size / 8;
    return F::unpack(row + static_cast<int64_t>(octet / octets) * MMVQ_TYPE_SIZE, octet % octets);
}

// Decodes an octet of a row of `n_cols` in any format; weights past the end of the row are 0.
// Row 0 starts at a multiple of 16 bytes and the others follow without gaps.
template <typename F = WeightFormat>
DEVICE void load_octet(const uint8_t* row, uint32_t octet, int n_cols, float (&w)[8]) {
    if constexpr (F::block_size > 1) {
        to_weights(unpack_octet<F>(row, octet), w);
    } else {
        const int64_t first = static_cast<int64_t>(octet) * 8;
        if (n_cols % 8 == 0) return F::decode_octet(row + first * MMVQ_TYPE_SIZE, w);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            w[i] = first + i < n_cols ? F::decode_one(row + (first + i) * MMVQ_TYPE_SIZE) : 0.0f;
        }
    }
}
