// How a tensor [outer, channels, inner] is cut into tasks.
//
// A plan depends on the shape alone, never on the number of threads. So the order of additions is
// fixed, and the same input gives the same bits on any number of cores.

#ifndef KERAS_RENORM_OPS_NATIVE_PLAN_H_
#define KERAS_RENORM_OPS_NATIVE_PLAN_H_

#include <cstdint>

namespace keras_renorm {

// Bytes of one vector of accumulators, on every machine: one AVX-512 register, two of AVX2, four
// of SSE or NEON.
constexpr int64_t kVectorBytes = 64;

// Values of float32 in a vector. float64 has half as many.
constexpr int64_t kMostLanes = kVectorBytes / sizeof(float);

// The kernels hold these many sums and weights in arrays on the stack. plan.cc shows that no plan has
// more.

// Vectors of columns in one task: 32 of float32 are 2 KB of a row, and their sums stay in L1.
constexpr int64_t kTileVectors = 32;
// Channels in one task over runs: their sums, 8 KB in float32, stay in L1.
constexpr int64_t kTileChannels = 64;
// Positions in a row of columns, fold * inner: 16 rows of 3 channels and 21 values have so many.
constexpr int64_t kMostPositions = 336;
// Values in a folded row: 16 rows of 63 values have so many.
constexpr int64_t kMostFolded = 1008;

// Two ways through memory, both in memory's order except for the few rows that are taken together:
//
// columns  (inner small, as in channels last) rows of `width` values. Sums over the rows are kept per
//          column, and the columns of a channel are merged at the end. Narrow rows are folded: [N, C]
//          is read as [N / fold, fold * C]. The last `rest` rows of a group, less than one folded
//          row, are a chunk of their own.
// runs     (inner large, as in channels first) each channel is a run of `inner` values, cut into
//          segments. A unit is one segment of one outer index, for all channels.
//
// `vectors` vectors cover a row of `width` columns. The last one ends at the last column, and overlaps
// the one before it where the width is not a multiple of the vector.
struct Plan {
  int64_t outer, channels, inner, groups;
  bool columns;
  int64_t lanes;   // values in a vector: 16, or 8 for float64
  int64_t fold;    // columns: input rows in one row of the plan
  int64_t width;   // columns: values in one row of the plan
  int64_t vectors; // columns: vectors in a row
  int64_t rest;    // columns: input rows of a group that fill no row of the plan
  int64_t segment; // runs: values in a segment; the last of a run has up to twice as many
  int64_t segments;
  int64_t rows;        // in a group: rows of the plan, or units
  int64_t chunk_rows;  // rows in a task
  int64_t chunks;      // tasks along the rows, and one for the rest, per group
  int64_t tile;        // vectors in a task (columns), or channels (runs)
  int64_t tiles;
  int64_t partials;    // sums kept by one chunk: vectors * lanes, or channels
  bool plain;          // whether partial i is channel i, for every i

  // kernels.cc uses it, and so needs it inlined.
  __attribute__((always_inline)) int64_t group_size() const { return outer / groups * channels * inner; }
  int64_t tasks() const { return groups * chunks * tiles; }
  int64_t size() const { return outer * channels * inner; }
};

Plan MakePlan(int64_t outer, int64_t channels, int64_t inner, int64_t groups, int64_t lanes);

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_PLAN_H_
