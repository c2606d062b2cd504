#include "calls.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "pages.h"

namespace keras_renorm {
namespace {

Error Check(const char* what, const Tensor& tensor, Element element, int64_t count) {
  if (tensor.type.element != element) {
    return Error::Invalid(std::string(what) + " is not of the type that goes with x");
  }
  if (tensor.type.count() == count) return {};
  return Error::Invalid(std::string(what) + " has " + std::to_string(tensor.type.count()) +
                        " values, not " + std::to_string(count));
}

Type StatisticsOf(const Operand& x) {
  return {x.wide(), {kStatistics, x.ghosts(), x.channels}};
}

// ---- forward: x, gamma, beta, moving mean, moving variance, r_max, d_max, weights
// to y, statistics, new moving mean, new moving variance, whether there was an update

Error ForwardTypes(const Call& call, const Operand& x, std::vector<Type>& outputs) {
  const int64_t channels = call.in[1].type.count();
  if (call.in[0].type.count() == 0 && channels != x.channels) {  // as in a replica without an example
    return Error::Invalid(
        "an empty batch has " + std::to_string(x.channels) + " channels, not " +
        std::to_string(channels) + ". TensorFlow's oneDNN convolution gives an empty batch the " +
        "shape of its input: set TF_ENABLE_ONEDNN_OPTS=0 in the environment, or give each replica " +
        "an example, e.g. by drop_remainder=True");
  }
  const char* const vectors[] = {"gamma", "beta", "moving_mean", "moving_variance"};
  for (int i = 0; i < 4; ++i) {
    KR_RETURN_IF_ERROR(Check(vectors[i], call.in[1 + i], x.wide(), x.channels));
  }
  KR_RETURN_IF_ERROR(Check("r_max", call.in[5], x.wide(), 1));
  KR_RETURN_IF_ERROR(Check("d_max", call.in[6], x.wide(), 1));
  const Type vector = {x.wide(), {x.channels}};
  outputs = {call.in[0].type, StatisticsOf(x), vector, vector, {x.wide(), {}}};
  return {};
}

Error Forward(const Call& call, Operand& operand) {
  const std::vector<Tensor>& in = call.in;
  operand.SetOutput(call.out[0]);
  void* const statistics = call.out[1].data;
  const Attributes& a = call.attributes;
  const ForwardChannels per_channel = {in[1].data, in[2].data, in[3].data, in[4].data,
                                       in[5].data, in[6].data, a.epsilon,  statistics};
  KR_RETURN_IF_ERROR(operand.ForEachPart(*call.pool, [&](const Work& work) {
    work.Moments();
    work.kernels->finish_forward(work.problem, per_channel);
    work.Normalize();
  }));
  operand.kernels->update_moving({statistics, in[3].data, in[4].data, operand.ghosts(),
                                  operand.channels, a.epsilon, a.momentum, a.by_stddev,
                                  call.out[2].data, call.out[3].data, call.out[4].data});
  return {};
}

// ---- backward: dy, x, statistics, weights to dx, dgamma, dbeta

Error BackwardTypes(const Call& call, const Operand& x, std::vector<Type>& outputs) {
  KR_RETURN_IF_ERROR(Check("statistics", call.in[2], x.wide(), StatisticsOf(x).count()));
  const Type vector = {x.wide(), {x.channels}};
  outputs = {call.in[0].type, vector, vector};
  return {};
}

Error Backward(const Call& call, Operand& operand) {
  const Tensor &dgamma = call.out[1], &dbeta = call.out[2];
  operand.SetOutput(call.out[0]);
  for (const Tensor* sums : {&dgamma, &dbeta}) {  // for a batch without a ghost
    std::fill_n(static_cast<char*>(sums->data), sums->type.bytes(), 0);
  }
  std::vector<double> sums(2 * operand.channels);
  const BackwardChannels per_channel = {call.in[2].data, sums.data(),
                                        sums.data() + operand.channels, dgamma.data, dbeta.data};
  return operand.ForEachPart(*call.pool, [&](const Work& work) {
    work.kernels->start_backward(work.problem, per_channel);
    work.GradientSums();
    work.kernels->finish_backward(work.problem, per_channel);
    work.InputGradient();
  });
}

// ---- moments: x, weights to [4, channels], float64 for merging: count, mean, biased variance, what
// rounding took from the mean

Error MomentsTypes(const Call&, const Operand& x, std::vector<Type>& outputs) {
  outputs = {{Element::kDouble, {4, x.channels}}};
  return {};
}

Error Moments(const Call& call, Operand& operand) {
  const int64_t channels = operand.channels;
  double* const out = static_cast<double*>(call.out[0].data);
  return operand.ForEachPart(*call.pool, [&](const Work& work) {
    work.Moments();
    for (int64_t c = 0; c < channels; ++c) {
      const double count = work.problem.total_count[c];
      out[c] = count;
      out[channels + c] = work.problem.total_first[c];
      out[2 * channels + c] = count == 0 ? 0 : work.problem.total_second[c] / count;
      out[3 * channels + c] = work.problem.total_low[c];
    }
  });
}

// ---- normalize: x, [4, channels] (mean, mean remainder, scale, offset) to y

Error NormalizeTypes(const Call& call, const Operand& x, std::vector<Type>& outputs) {
  KR_RETURN_IF_ERROR(Check("parameters", call.in[1], x.wide(), 4 * x.channels));
  outputs = {call.in[0].type};
  return {};
}

Error Normalize(const Call& call, Operand& operand) {
  operand.SetOutput(call.out[0]);
  return operand.ForEachPart(*call.pool, [&](const Work& work) {
    work.SetParameters(call.in[1]);
    work.Normalize();
  });
}

// ---- gradient sums: dy, x, parameters as above, weights
// to [2, channels]: sums of dy, and of dy times the centred value, float64 for merging

Error GradientSumsTypes(const Call& call, const Operand& x, std::vector<Type>& outputs) {
  KR_RETURN_IF_ERROR(Check("parameters", call.in[2], x.wide(), 4 * x.channels));
  outputs = {{Element::kDouble, {2, x.channels}}};
  return {};
}

Error GradientSums(const Call& call, Operand& operand) {
  const int64_t channels = operand.channels;
  double* const out = static_cast<double*>(call.out[0].data);
  return operand.ForEachPart(*call.pool, [&](const Work& work) {
    work.SetParameters(call.in[2]);
    work.GradientSums();
    std::memcpy(out, work.problem.total_first, channels * sizeof(double));
    std::memcpy(out + channels, work.problem.total_second, channels * sizeof(double));
  });
}

// ---- input gradient: dy, x, [6, channels] (parameters as above, then bias and slope), weights
// to dx = scale dy - weight (bias + centred slope)

Error InputGradientTypes(const Call& call, const Operand& x, std::vector<Type>& outputs) {
  KR_RETURN_IF_ERROR(Check("parameters", call.in[2], x.wide(), 6 * x.channels));
  outputs = {call.in[0].type};
  return {};
}

Error InputGradient(const Call& call, Operand& operand) {
  operand.SetOutput(call.out[0]);
  return operand.ForEachPart(*call.pool, [&](const Work& work) {
    work.SetParameters(call.in[2]);
    work.InputGradient();
  });
}

// Checks the types and sizes of results that the caller has allocated.
Error CheckResults(const Call& call, const std::vector<Type>& types) {
  for (size_t i = 0; i < types.size(); ++i) {
    const Type& declared = call.out[i].type;
    if (declared.element == types[i].element && declared.count() == types[i].count()) continue;
    return Error::Invalid("result " + std::to_string(i) + " has " +
                          std::to_string(declared.count()) + " values, not " +
                          std::to_string(types[i].count()) + ", or is of another type");
  }
  return {};
}

}  // namespace

const CallKind kCallKinds[kCalls] = {
    {"forward", 7, true, 0, false, 5, true, true, false, ForwardTypes, Forward},
    {"backward", 3, true, 1, true, 3, true, true, true, BackwardTypes, Backward},
    {"moments", 1, true, 0, false, 1, false, false, false, MomentsTypes, Moments},
    {"normalize", 2, false, 0, false, 1, false, true, true, NormalizeTypes, Normalize},
    {"gradient_sums", 3, true, 1, true, 1, false, false, false, GradientSumsTypes, GradientSums},
    {"input_gradient", 3, true, 1, true, 1, false, true, true, InputGradientTypes, InputGradient},
};

Error CheckCounts(const CallKind& kind, int64_t inputs, int64_t outputs) {
  const bool fits = inputs == kind.inputs || (kind.weighted && inputs == kind.inputs + 1);
  if (fits && outputs == kind.outputs) return {};
  const std::string weights = kind.weighted ? ", or one more, " : " ";
  return Error::Invalid(std::string(kind.name) + " has " + std::to_string(inputs) +
                        " operands and " + std::to_string(outputs) + " results; it takes " +
                        std::to_string(kind.inputs) + weights + "and returns " +
                        std::to_string(kind.outputs));
}

Error Prepare(const CallKind& kind, const Call& call, Operand& operand,
              std::vector<Type>& outputs) {
  const Tensor& x = call.in[kind.x];
  if (call.attributes.ghost_size != 0 && !kind.ghosts) {
    return Error::Invalid(std::string(kind.name) + " knows no ghost batches");
  }
  KR_RETURN_IF_ERROR(operand.Prepare(x, call.attributes));
  const bool weighted = static_cast<int>(call.in.size()) > kind.inputs;
  if (weighted) KR_RETURN_IF_ERROR(operand.SetWeights(call.in.back()));
  if (kind.gradient) {
    KR_RETURN_IF_ERROR(Check("dy", call.in[0], x.type.element, x.type.count()));
    operand.SetGradient(call.in[0]);
  }
  return kind.types(call, operand, outputs);
}

Error RunInto(const CallKind& kind, const Call& call) {
  KR_RETURN_IF_ERROR(CheckCounts(kind, call.in.size(), call.out.size()));
  Operand operand;
  std::vector<Type> types;
  KR_RETURN_IF_ERROR(Prepare(kind, call, operand, types));
  KR_RETURN_IF_ERROR(CheckResults(call, types));
  for (const Tensor& result : call.out) AskForLargePages(result);
  return kind.run(call, operand);
}

}  // namespace keras_renorm
