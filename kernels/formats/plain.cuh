// Plain floating point: F32, F16, BF16. A block is one weight, rows may have any length.
// `decode_octet` needs rows that start at a multiple of 8 weights; `decode_one` needs nothing.

template <>
struct Format<0> {  // F32
    struct Block {
        float value;
    };
    static constexpr int block_size = 1;
    static constexpr bool is_split = false;

    DEVICE float decode_one(const uint8_t* block) { return load<float>(block); }

    DEVICE void decode_octet(const uint8_t* blocks, float (&w)[8]) {
        const uint4 a = load<uint4>(blocks), b = load<uint4>(blocks + 16);
        const uint32_t bits[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) w[i] = bits_to_float(bits[i]);
    }
};

// Both 16-bit formats, which differ in the conversion only.
template <float (*Convert)(uint16_t)>
struct Plain16 {
    struct Block {
        uint16_t value;
    };
    static constexpr int block_size = 1;
    static constexpr bool is_split = false;

    DEVICE float decode_one(const uint8_t* block) { return Convert(load<uint16_t>(block)); }

    DEVICE void decode_octet(const uint8_t* blocks, float (&w)[8]) {
        const uint4 pairs = load<uint4>(blocks);
        const uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) w[i] = Convert(static_cast<uint16_t>(words[i / 2] >> 16 * (i & 1)));
    }
};

template <>
struct Format<1> : Plain16<half_to_float> {};  // F16

template <>
struct Format<30> : Plain16<bfloat_to_float> {};  // BF16
