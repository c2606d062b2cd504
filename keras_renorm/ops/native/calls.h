// The calls of the library: their operands, results and attributes, whichever runtime makes them.
//
// x and dy are [outer..., channels, inner...], `axis` naming the channels; all of one type. Other
// operands are of the wide type: float32, or float64 for float64. Where a call takes weights they
// come last, and need not be there: a mask (bool) or weights (float32),
// [outer..., channels or 1, inner...].

#ifndef KERAS_RENORM_OPS_NATIVE_CALLS_H_
#define KERAS_RENORM_OPS_NATIVE_CALLS_H_

#include <cstdint>
#include <vector>

#include "operand.h"
#include "team.h"
#include "tensor.h"

namespace keras_renorm {

struct Call {
  std::vector<Tensor> in, out;
  Attributes attributes;
  Pool* pool;
};

struct CallKind {
  const char* name;
  int inputs;       // at least
  bool weighted;    // whether one more may follow, the weights
  int x;            // which of the inputs is x
  bool gradient;    // whether input 0 is dy
  int outputs;
  bool ghosts;      // whether it heeds a ghost size
  bool like_first;  // whether output 0 has the type and sizes of input 0
  bool in_place;    // whether it may lie there, if no value is read after it was written
  // Checks the inputs but x and the weights; returns the types of all outputs.
  Error (*types)(const Call&, const Operand&, std::vector<Type>&);
  Error (*run)(const Call&, Operand&);
};

enum CallNumber {
  kForward, kBackward, kMoments, kNormalize, kGradientSums, kInputGradient, kCalls
};

extern const CallKind kCallKinds[kCalls];

// Whether a call of this kind may have so many operands and results: before any of them is looked at.
Error CheckCounts(const CallKind& kind, int64_t inputs, int64_t outputs);

// Checks all inputs of a call, whose number is right, and prepares its operand; returns the types of
// its outputs.
Error Prepare(const CallKind& kind, const Call& call, Operand& operand, std::vector<Type>& outputs);

// The whole of a call whose results are there already, in memory of the caller's.
Error RunInto(const CallKind& kind, const Call& call);

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_CALLS_H_
