#include "plan.h"

namespace keras_renorm {
namespace {

// Values in a task: 256 KB of float32. Two tasks fit in a core's L2 with their output, and handing one
// out (about 1 us) takes little beside its 10 us.
constexpr int64_t kTaskValues = 65536;

// Narrower rows are folded to at least this many columns.
constexpr int64_t kFoldedWidth = 64;

// A channel's run of so many values, or fewer, is too short to be summed by itself.
constexpr int64_t kShortRun = 32;

constexpr int64_t kSegment = 16384;

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// The least number of rows, `fold` or more, that makes whole vectors.
constexpr int64_t InVectors(int64_t fold, int64_t row, int64_t lanes) {
  while (fold * row % lanes != 0) ++fold;
  return fold;
}

// Rows to fold into one: the fewest that reach kFoldedWidth in whole vectors. Where there are not as
// many, rows of less than a vector are folded to the fewest vectors.
constexpr int64_t Fold(int64_t row, int64_t rows, int64_t lanes) {
  if (row >= kFoldedWidth) return 1;
  const int64_t fold = InVectors(CeilDiv(kFoldedWidth, row), row, lanes);
  if (fold <= rows) return fold;
  return row < lanes ? InVectors(1, row, lanes) : 1;
}

// The most positions that a row of columns has, folded or not.
constexpr int64_t MostPositions(int64_t lanes) {
  int64_t most = kShortRun;
  for (int64_t channels = 2; channels < kFoldedWidth; ++channels) {
    for (int64_t inner = 1; inner <= kShortRun && channels * inner < kFoldedWidth; ++inner) {
      most = Max(most, Fold(channels * inner, kFoldedWidth, lanes) * inner);
    }
  }
  return Max(most, Fold(1, kFoldedWidth, lanes));  // one channel: MakePlan makes the inner size 1
}

// The most values that a folded row has.
constexpr int64_t MostFolded(int64_t lanes) {
  int64_t most = 0;
  for (int64_t row = 1; row < kFoldedWidth; ++row) {
    most = Max(most, Fold(row, kFoldedWidth, lanes) * row);
  }
  return most;
}
static_assert(MostPositions(kMostLanes) == kMostPositions, "the kernels' buffers fit all rows");
static_assert(MostPositions(kMostLanes / 2) <= kMostPositions, "and all rows of float64");
static_assert(MostFolded(kMostLanes) == kMostFolded, "and so do the rows that are filled up");
static_assert(MostFolded(kMostLanes / 2) <= kMostFolded, "of float64, too");
static_assert(kFoldedWidth >= kMostLanes, "a folded row is as long as a vector");
static_assert(kShortRun >= kMostLanes, "a run is longer than a vector, which may end at its last value");
static_assert(kSegment >= kShortRun, "and so is a segment");

void PlanColumns(Plan& plan, int64_t outer) {
  plan.fold = Fold(plan.channels * plan.inner, outer, plan.lanes);
  plan.width = plan.fold * plan.channels * plan.inner;
  plan.rows = outer / plan.fold;
  plan.rest = outer % plan.fold;
  plan.vectors = CeilDiv(plan.width, plan.lanes);
  plan.tile = Min(plan.vectors, kTileVectors);
  plan.tiles = CeilDiv(plan.vectors, plan.tile);
  plan.chunk_rows = Max(8, kTaskValues / (plan.tile * plan.lanes) / 8 * 8);
  plan.partials = plan.vectors * plan.lanes;
  plan.plain = plan.partials == plan.channels;
}

void PlanRuns(Plan& plan, int64_t outer) {
  plan.segments = Max(1, plan.inner / kSegment);
  plan.segment = plan.segments > 1 ? kSegment : plan.inner;  // the last one takes what is left
  plan.rows = outer * plan.segments;
  plan.tile = Min(plan.channels, kTileChannels);
  plan.tiles = CeilDiv(plan.channels, plan.tile);
  plan.chunk_rows = Max(1, kTaskValues / (plan.tile * plan.segment));
  plan.partials = plan.channels;
  plan.plain = true;
}

}  // namespace

Plan MakePlan(int64_t outer, int64_t channels, int64_t inner, int64_t groups, int64_t lanes) {
  if (channels == 1) {  // positions only: contiguous, whatever the axis
    outer *= inner;
    inner = 1;
  }
  Plan plan = {};
  plan.outer = outer;
  plan.channels = channels;
  plan.inner = inner;
  plan.groups = groups;
  plan.lanes = lanes;
  plan.columns = inner <= kShortRun;
  if (plan.size() == 0) return plan;  // no task
  if (plan.columns) {
    PlanColumns(plan, outer / groups);
  } else {
    PlanRuns(plan, outer / groups);
  }
  plan.chunks = CeilDiv(plan.rows, plan.chunk_rows) + (plan.rest > 0);
  return plan;
}

}  // namespace keras_renorm
