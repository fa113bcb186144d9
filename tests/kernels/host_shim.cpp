// Appended to the rendered format.cuh: decodes n_bytes of packed rows from stdin to float32 on stdout, on the host.
// Every block is copied to the end of a heap allocation of its own, once at an odd and once at an even multiple of the
// alignment that the format may assume: a sanitizer sees a read past the block, `load` asserts a misaligned one.
// Plain floats have no blocks to take apart; whole rows of n_cols are copied instead.

#include <cstdio>
#include <cstdlib>

// Decodes n_cols weights (rounded up to whole octets) from `size` bytes, placed `phase` bytes after a multiple of 16.
static void decode(const uint8_t* packed, size_t size, size_t phase, int n_cols, float* weights) {
  uint8_t* buffer = static_cast<uint8_t*>(malloc(phase + size));
  memcpy(buffer + phase, packed, size);
  for (int octet = 0; 8 * octet < n_cols; ++octet) {
    float w[8];
    load_octet(buffer + phase, octet, n_cols, w);
    for (int i = 0; i < 8; ++i) weights[weight_in_row(octet, i)] = w[i];
  }
  free(buffer);
}

int main(int, char** arguments) {
  const int n_cols = WeightFormat::block_size > 1 ? WeightFormat::block_size : atoi(arguments[1]);
  const size_t n_bytes = strtoul(arguments[2], nullptr, 10), size = static_cast<size_t>(row_bytes(n_cols));
  const size_t lowest_bit = size & (~size + 1), alignment = lowest_bit < 16 ? lowest_bit : 16;
  uint8_t* packed = static_cast<uint8_t*>(malloc(n_bytes));
  if (fread(packed, 1, n_bytes, stdin) != n_bytes) return 1;

  const size_t n_decoded = (n_cols + 7) / 8 * 8;
  float* weights = static_cast<float*>(malloc(2 * sizeof(float) * n_decoded));
  float* again = weights + n_decoded;
  for (size_t start = 0; start < n_bytes; start += size) {
    decode(packed + start, size, alignment, n_cols, weights);
    decode(packed + start, size, 2 * alignment, n_cols, again);
    if (memcmp(weights, again, sizeof(float) * n_decoded) != 0) return 2;
    fwrite(weights, sizeof(float), n_cols, stdout);
    for (size_t i = n_cols; i < n_decoded; ++i) {
      if (weights[i] != 0.0f) return 3;  // past the end of the row
    }
  }
  free(weights);
  free(packed);
  return 0;
}
