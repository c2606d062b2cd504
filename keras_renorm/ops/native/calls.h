// The calls of the library: their operands, results and attributes, whichever runtime makes them.
//
// x and dy are [outer..., channels, inner...] of one type, and `axis` names the channels. Other
// operands are of the wide type: float32, or float64 for float64. Weights come last and are optional:
// a mask (bool) or weights (float32), [outer..., channels or 1, inner...].

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
  bool weighted;    // whether weights may follow them
  int x;            // which of the inputs is x
  bool gradient;    // whether input 0 is dy
  int outputs;
  bool ghosts;      // whether the call heeds a ghost size
  bool like_first;  // whether output 0 has the type and sizes of input 0
  bool in_place;    // whether output 0 may overwrite input 0, if no value is read once overwritten
  // Checks the inputs but x and the weights; returns the types of all outputs.
  Error (*types)(const Call&, const Operand&, std::vector<Type>&);
  Error (*run)(const Call&, Operand&);
};

enum CallNumber {
  kForward, kBackward, kMoments, kNormalize, kGradientSums, kInputGradient, kCalls
};

extern const CallKind kCallKinds[kCalls];

// Checks the numbers of operands and results of a call, before any of them is read.
Error CheckCounts(const CallKind& kind, int64_t inputs, int64_t outputs);

// Checks all inputs of a call, prepares its operand and returns the types of its outputs. Call
// CheckCounts first.
Error Prepare(const CallKind& kind, const Call& call, Operand& operand, std::vector<Type>& outputs);

// Runs a whole call, into results in the caller's memory.
Error RunInto(const CallKind& kind, const Call& call);

}  // namespace keras_renorm

#endif  // KERAS_RENORM_OPS_NATIVE_CALLS_H_
