#include "tests/reference/operations.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace skippipe::reference {
namespace {

Array zeros(int64_t count) { return Array(static_cast<size_t>(count), 0.0); }

}  // namespace

Array linear(const Array& x, const Array& w, int64_t rows, int64_t inputs, int64_t outputs) {
  Array y = zeros(rows * outputs);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) y[n * outputs + o] += x[n * inputs + i] * w[o * inputs + i];
  return y;
}

Array linear_dx(const Array& dy, const Array& w, int64_t rows, int64_t inputs, int64_t outputs) {
  Array dx = zeros(rows * inputs);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) dx[n * inputs + i] += dy[n * outputs + o] * w[o * inputs + i];
  return dx;
}

Array linear_dw(const Array& dy, const Array& x, int64_t rows, int64_t inputs, int64_t outputs) {
  Array dw = zeros(outputs * inputs);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) dw[o * inputs + i] += dy[n * outputs + o] * x[n * inputs + i];
  return dw;
}

Array embedding(const Ids& tokens, const Array& w, int64_t channels) {
  Array y;
  for (const int32_t token : tokens)
    y.insert(y.end(), w.begin() + token * channels, w.begin() + (token + 1) * channels);
  return y;
}

Array embedding_dw(const Array& dy, const Ids& tokens, int64_t vocabulary, int64_t channels) {
  Array dw = zeros(vocabulary * channels);
  for (size_t n = 0; n < tokens.size(); ++n)
    for (int64_t c = 0; c < channels; ++c) dw[tokens[n] * channels + c] += dy[n * channels + c];
  return dw;
}

RmsNorm rmsnorm(const Array& x, const Array& w, int64_t channels, double eps) {
  const int64_t rows = static_cast<int64_t>(x.size()) / channels;
  RmsNorm result{zeros(rows * channels), zeros(rows)};
  for (int64_t n = 0; n < rows; ++n) {
    double squares = 0;
    for (int64_t c = 0; c < channels; ++c) squares += x[n * channels + c] * x[n * channels + c];
    result.rrms[n] = 1 / std::sqrt(squares / channels + eps);
    for (int64_t c = 0; c < channels; ++c) result.y[n * channels + c] = x[n * channels + c] * result.rrms[n] * w[c];
  }
  return result;
}

RmsNormGrad rmsnorm_grad(const Array& dy, const Array& x, const Array& w, int64_t channels, double eps) {
  const Array rrms = rmsnorm(x, w, channels, eps).rrms;
  RmsNormGrad result{zeros(static_cast<int64_t>(x.size())), zeros(channels)};
  for (size_t n = 0; n < rrms.size(); ++n) {
    double mean = 0;
    for (int64_t c = 0; c < channels; ++c) mean += w[c] * dy[n * channels + c] * x[n * channels + c] / channels;
    for (int64_t c = 0; c < channels; ++c) {
      const size_t at = n * channels + c;
      result.dx[at] = rrms[n] * (w[c] * dy[at] - x[at] * rrms[n] * rrms[n] * mean);
      result.dw[c] += dy[at] * x[at] * rrms[n];
    }
  }
  return result;
}

Array rope(const Array& x, const Array& cos, const Array& sin, int64_t batch, int64_t tokens, int64_t heads,
           int64_t head_dim, int direction) {
  Array y = zeros(static_cast<int64_t>(x.size()));
  const int64_t half = head_dim / 2;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < half; ++d) {
          const int64_t first = ((b * tokens + t) * heads + h) * head_dim + d, second = first + half;
          const double c = cos[t * half + d], s = direction * sin[t * half + d];
          y[first] = x[first] * c - x[second] * s;
          y[second] = x[second] * c + x[first] * s;
        }
  return y;
}

namespace {

// Indices into the arrays of attention, and the probabilities of one query.
struct AttentionIndex {
  AttentionShape at;

  int64_t query(int64_t b, int64_t t, int64_t h) const { return ((b * at.tokens + t) * at.heads + h) * at.head_dim; }
  int64_t key(int64_t b, int64_t t, int64_t h) const {
    return ((b * at.tokens + t) * at.kv_heads + h / (at.heads / at.kv_heads)) * at.head_dim;
  }
  int64_t lse(int64_t b, int64_t t, int64_t h) const { return (b * at.heads + h) * at.tokens + t; }
};

struct Softmax {
  Array probabilities;
  double lse;
};

Softmax query_softmax(const Array& q, const Array& k, const AttentionIndex& index, int64_t b, int64_t t, int64_t h,
                      double scale) {
  Softmax result{zeros(t + 1), 0};
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t s = 0; s <= t; ++s) {
    for (int64_t d = 0; d < index.at.head_dim; ++d)
      result.probabilities[s] += scale * q[index.query(b, t, h) + d] * k[index.key(b, s, h) + d];
    top = std::max(top, result.probabilities[s]);
  }
  for (const double score : result.probabilities) sum += std::exp(score - top);
  result.lse = top + std::log(sum);
  for (double& p : result.probabilities) p = std::exp(p - result.lse);
  return result;
}

}  // namespace

Attention attention(const Array& q, const Array& k, const Array& v, const AttentionShape& shape, double scale) {
  const AttentionIndex index{shape};
  Attention result{zeros(static_cast<int64_t>(q.size())), zeros(shape.batch * shape.heads * shape.tokens)};
  for (int64_t b = 0; b < shape.batch; ++b)
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const Softmax softmax = query_softmax(q, k, index, b, t, h, scale);
        result.lse[index.lse(b, t, h)] = softmax.lse;
        for (int64_t s = 0; s <= t; ++s)
          for (int64_t d = 0; d < shape.head_dim; ++d)
            result.y[index.query(b, t, h) + d] += softmax.probabilities[s] * v[index.key(b, s, h) + d];
      }
  return result;
}

AttentionGrad attention_grad(const Array& dy, const Array& q, const Array& k, const Array& v,
                             const AttentionShape& shape, double scale) {
  const AttentionIndex index{shape};
  AttentionGrad result{zeros(static_cast<int64_t>(q.size())), zeros(static_cast<int64_t>(k.size())),
                       zeros(static_cast<int64_t>(v.size()))};
  for (int64_t b = 0; b < shape.batch; ++b)
    for (int64_t h = 0; h < shape.heads; ++h)
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const Array p = query_softmax(q, k, index, b, t, h, scale).probabilities;
        const int64_t query = index.query(b, t, h);
        Array dp = zeros(t + 1);
        double mean = 0;
        for (int64_t s = 0; s <= t; ++s) {
          for (int64_t d = 0; d < shape.head_dim; ++d) {
            dp[s] += dy[query + d] * v[index.key(b, s, h) + d];
            result.dv[index.key(b, s, h) + d] += p[s] * dy[query + d];
          }
          mean += p[s] * dp[s];
        }
        for (int64_t s = 0; s <= t; ++s) {
          const double dscore = scale * p[s] * (dp[s] - mean);
          for (int64_t d = 0; d < shape.head_dim; ++d) {
            result.dq[query + d] += dscore * k[index.key(b, s, h) + d];
            result.dk[index.key(b, s, h) + d] += dscore * q[query + d];
          }
        }
      }
  return result;
}

Array swiglu(const Array& gate, const Array& up) {
  Array y = gate;
  for (size_t i = 0; i < y.size(); ++i) y[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
  return y;
}

SwigluGrad swiglu_grad(const Array& dy, const Array& gate, const Array& up) {
  SwigluGrad result{gate, up};
  for (size_t i = 0; i < dy.size(); ++i) {
    const double sigmoid = 1 / (1 + std::exp(-gate[i]));
    result.dgate[i] = dy[i] * up[i] * (sigmoid + gate[i] * sigmoid * (1 - sigmoid));
    result.dup[i] = dy[i] * gate[i] * sigmoid;
  }
  return result;
}

LmHead lm_head(const Array& h, const Array& w, const Ids& targets, int64_t channels, int64_t vocabulary) {
  const int64_t rows = static_cast<int64_t>(targets.size());
  const Array logits = linear(h, w, rows, channels, vocabulary);
  LmHead result{0, zeros(rows)};
  for (int64_t n = 0; n < rows; ++n) {
    const double* row = &logits[n * vocabulary];
    const double top = *std::max_element(row, row + vocabulary);
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(row[v] - top);
    result.lse[n] = top + std::log(sum);
    if (targets[n] >= 0) result.loss += result.lse[n] - row[targets[n]];
  }
  return result;
}

LmHeadGrad lm_head_grad(const Array& h, const Array& w, const Ids& targets, int64_t channels, int64_t vocabulary,
                        double scale) {
  const int64_t rows = static_cast<int64_t>(targets.size());
  const Array lse = lm_head(h, w, targets, channels, vocabulary).lse;
  Array dlogits = linear(h, w, rows, channels, vocabulary);
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t v = 0; v < vocabulary; ++v) {
      double& d = dlogits[n * vocabulary + v];
      d = targets[n] < 0 ? 0 : scale * (std::exp(d - lse[n]) - (targets[n] == v ? 1 : 0));
    }
  return {linear_dx(dlogits, w, rows, channels, vocabulary), linear_dw(dlogits, h, rows, channels, vocabulary)};
}

AdamW adamw(AdamW state, const Array& grad, const AdamWScalars& scalars) {
  const double correction1 = 1 - std::pow(scalars.beta1, static_cast<double>(scalars.step));
  const double correction2 = 1 - std::pow(scalars.beta2, static_cast<double>(scalars.step));
  for (size_t i = 0; i < grad.size(); ++i) {
    const double g = grad[i] * scalars.grad_scale;
    state.m[i] = scalars.beta1 * state.m[i] + (1 - scalars.beta1) * g;
    state.v[i] = scalars.beta2 * state.v[i] + (1 - scalars.beta2) * g * g;
    const double direction = state.m[i] / correction1 / (std::sqrt(state.v[i] / correction2) + scalars.eps);
    state.w[i] -= scalars.learning_rate * (direction + scalars.weight_decay * state.w[i]);
  }
  return state;
}

}  // namespace skippipe::reference
