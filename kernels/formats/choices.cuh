// Codebooks for integers: a nibble for each of eight weights chooses one of eight signed bytes, four weights by one permute.
#include "formats/unpack.cuh"

// Nibble i of `choices` (below 8) chooses weight i of the bytes `low`, `high`.
DEVICE Bytes8 chosen(uint32_t low, uint32_t high, uint32_t choices) {
    return {byte_permute(low, high, choices), byte_permute(low, high, choices >> 16)};
}

// The low nibbles of eight bytes, in order.
DEVICE uint32_t pack_nibbles(Bytes8 bytes) {
    const Bytes8 low = nibbles(bytes, 0);
    return byte_permute(low.lo | low.lo >> 4, low.hi | low.hi >> 4, 0x6420);
}

// Bit i of `bits` (eight of them) as bit 2 of nibble i.
DEVICE uint32_t bits_in_nibbles(uint32_t bits) {
    bits = (bits | bits << 12) & 0x000F000Fu;
    bits = (bits | bits << 6) & 0x03030303u;
    bits = (bits | bits << 3) & 0x11111111u;
    return bits << 2;
}

// Twice each nibble and one more, byte by byte: the integer scales that lie in the low nibbles and in the high ones.
DEVICE uint32_t odd_of_low(uint32_t nibbles) { return and_or(nibbles << 1, 0x1E1E1E1Eu, 0x01010101u); }

DEVICE uint32_t odd_of_high(uint32_t nibbles) { return and_or(nibbles >> 3, 0x1E1E1E1Eu, 0x01010101u); }
