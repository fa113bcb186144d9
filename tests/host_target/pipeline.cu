// Products of 16x16 and 16x8 tiles through every operation of the tensor-core pipelines: what they do is checked on the
// host, and that they compile by NVRTC.
//
//   out[tile] = a[tile] * b[tile]      a [n_tiles, 16, 16] by rows, b [n_tiles, 8, 16] by columns, out [n_tiles, 16, 8]
#include "ptx.cuh"

constexpr uint32_t A_BYTES = 512, B_BYTES = 256, STAGES = 2;
constexpr uint32_t LAST_LINE = 10;  // bytes that are copied of b's last 16; the others count as zero

#ifdef PIPELINE_BFLOAT
#define MMA mma_bf16
#else
#define MMA mma_f16
#endif

DEVICE void multiply_tile(const uint8_t* a, const uint8_t* b, float* out) {
    const int lane = lane_index();
    uint32_t from_a[4], from_b[2];
    load_matrices(from_a, a + 32 * (lane % 16) + 16 * (lane / 16));
    for (int i = 0; i < 2; ++i) from_b[i] = load<uint32_t>(b + 32 * (lane / 4) + 4 * (lane % 4) + 16 * i);
    float sums[4] = {};
    MMA(sums, from_a, from_b, sums);
    for (int i = 0; i < 4; ++i) out[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = sums[i];
}

// Barriers of the stages; a stage is full after `n_copying` arrivals.
DEVICE void set_up(uint64_t* full, uint64_t* empty, uint32_t n_copying) {
    if (thread_index() == 0) {
        for (uint32_t i = 0; i < STAGES; ++i) {
            barrier_init(full + i, n_copying);
            barrier_init(empty + i, 32);
        }
        barrier_init_done();
    }
    block_barrier();
}

// Warps 1 and 2 multiply every second tile each.
DEVICE void multiply_stages(const uint8_t* stages, uint64_t* full, uint64_t* empty, float* out, int32_t n_tiles) {
    for (int tile = warp_index() - 1; tile < n_tiles; tile += 2) {
        const uint32_t stage = tile % STAGES, round = tile / STAGES;
        const uint8_t* from = stages + stage * (A_BYTES + B_BYTES);
        barrier_wait(full + stage, round & 1);
        multiply_tile(from, from + A_BYTES, out + tile * 128);
        barrier_arrive(empty + stage);
    }
    named_barrier(1, 64);
}

// Warp 0 copies a stage ahead, by one lane.
KERNEL copy_by_bulk(const uint8_t* a, const uint8_t* b, float* out, int32_t n_tiles) {
    uint8_t* stages = dynamic_shared();
    SHARED uint64_t full[STAGES], empty[STAGES];
    set_up(full, empty, 1);
    if (warp_index() != 0) return multiply_stages(stages, full, empty, out, n_tiles);
    if (lane_index() != 0) return;
    for (int tile = 0; tile < n_tiles; ++tile) {
        const uint32_t stage = tile % STAGES, round = tile / STAGES;
        uint8_t* to = stages + stage * (A_BYTES + B_BYTES);
        barrier_wait(empty + stage, (round & 1) ^ 1);
        barrier_arrive_expect(full + stage, A_BYTES + B_BYTES);
        copy_bulk(to, a + tile * A_BYTES, A_BYTES, full + stage);
        copy_bulk(to + A_BYTES, b + tile * B_BYTES, B_BYTES, full + stage);
    }
}

// Warp 0 copies a stage ahead, a line by each lane.
KERNEL copy_by_lines(const uint8_t* a, const uint8_t* b, float* out, int32_t n_tiles) {
    uint8_t* stages = dynamic_shared();
    SHARED uint64_t full[STAGES], empty[STAGES];
    set_up(full, empty, 32);
    if (warp_index() != 0) return multiply_stages(stages, full, empty, out, n_tiles);
    const int lane = lane_index();
    for (int tile = 0; tile < n_tiles; ++tile) {
        const uint32_t stage = tile % STAGES, round = tile / STAGES;
        uint8_t* to = stages + stage * (A_BYTES + B_BYTES) + 16 * lane;
        barrier_wait(empty + stage, (round & 1) ^ 1);
        copy_line(to, a + tile * A_BYTES + 16 * lane, 16);
        if (lane < 16) copy_line(to + A_BYTES, b + tile * B_BYTES + 16 * lane, lane < 15 ? 16 : LAST_LINE);
        barrier_arrive_behind_copies(full + stage);
    }
}
