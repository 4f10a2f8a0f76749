// The operations of training: autograd functions that keep little for the backward pass, and add the gradients of weights to their
// Grad without an intermediate copy. Float32 on the CPU uses the kernels, the rest uses libtorch.
#include "shim_internal.h"

#include "kernels.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <limits>
#include <memory>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

bool fast(const at::Tensor &x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

void want(bool ok, const char *what) {
  if (!ok) throw std::invalid_argument(what);
}

at::Tensor wide(const at::Tensor &x) { return x.to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat); }

at::Tensor rows_of(const at::Tensor &x) { return x.reshape({-1, x.size(-1)}); }

// products reports whether our kernel computes a·b: if the processor has AVX-512 and libtorch's MKL does not use it.
bool products(const at::Tensor &a, const at::Tensor &b) {
  return kernels::fast_products() && !mkl_takes_avx512() && fast(a) && fast(b) && a.size(0) > 0 && b.size(1) > 0 &&
         a.size(1) > 0;
}

kernels::matrix matrix_of(const at::Tensor &x) { return {x.data_ptr<float>(), x.stride(0), x.stride(1)}; }

// matrix_product is a·b of two matrices.
at::Tensor matrix_product(const at::Tensor &a, const at::Tensor &b) {
  if (!products(a, b)) return at::mm(a, b);
  at::Tensor y = at::empty({a.size(0), b.size(1)}, a.options());
  kernels::product(matrix_of(a), matrix_of(b), y.data_ptr<float>(), a.size(0), b.size(1), a.size(1), false);
  return y;
}

// add_product adds a·b to the gradient of a weight.
void add_product(const at::Tensor &weight, const at::Tensor &a, const at::Tensor &b) {
  at::Tensor &g = weight.mutable_grad();
  if (!g.defined())
    g = matrix_product(a, b).to(weight.scalar_type());
  else if (a.scalar_type() != weight.scalar_type())
    g.add_(matrix_product(a, b));
  else if (products(a, b) && g.is_contiguous())
    kernels::product(matrix_of(a), matrix_of(b), g.data_ptr<float>(), a.size(0), b.size(1), a.size(1), true);
  else
    g.addmm_(a, b);
}

struct Embed : Function<Embed> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &w, const at::Tensor &ids) {
    ctx->save_for_backward({w, ids});
    auto shape = ids.sizes().vec();
    shape.push_back(w.size(1));
    return w.index_select(0, ids.reshape({-1})).view(shape);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &w = saved[0], &ids = saved[1];
    at::Tensor &g = w.mutable_grad();
    if (!g.defined()) g = at::zeros_like(w.detach());
    g.index_add_(0, ids.reshape({-1}), rows_of(grads[0]).to(w.scalar_type()));
    return {at::Tensor(), at::Tensor()};
  }
};

struct RMSNorm : Function<RMSNorm> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w, double offset, double eps) {
    ctx->save_for_backward({x, w});
    ctx->saved_data["offset"] = offset;
    ctx->saved_data["eps"] = eps;
    return value(x, w, offset, eps);
  }

  static at::Tensor value(const at::Tensor &x, const at::Tensor &w, double offset, double eps) {
    at::Tensor y = at::empty_like(x);
    kernels::rms_norm(x.data_ptr<float>(), w.data_ptr<float>(), static_cast<float>(offset), y.data_ptr<float>(),
                      x.numel() / w.numel(), w.numel(), eps);
    return y;
  }

  // again recomputes the result of forward.
  static at::Tensor again(AutogradContext *ctx) {
    const variable_list saved = ctx->get_saved_variables();
    return value(saved[0], saved[1], ctx->saved_data["offset"].toDouble(), ctx->saved_data["eps"].toDouble());
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &w = saved[1];
    const at::Tensor r = (x.square().mean(-1, true) + ctx->saved_data["eps"].toDouble()).rsqrt_(), unit = x * r;
    const at::Tensor g = grads[0] * (w + ctx->saved_data["offset"].toDouble());
    const at::Tensor dx = (g - unit * (g * unit).mean(-1, true)).mul_(r);
    const at::Tensor dw = ctx->needs_input_grad(1) ? rows_of(unit.mul_(grads[0])).sum(0) : at::Tensor();
    return {dx, dw, at::Tensor(), at::Tensor()};
  }
};

at::Tensor turned(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin, const at::Tensor &positions,
                  bool inverse) {
  at::Tensor y = at::empty_like(x);
  kernels::rotate(x.data_ptr<float>(), cos.data_ptr<float>(), sin.data_ptr<float>(), positions.data_ptr<int64_t>(),
                  y.data_ptr<float>(), x.size(0), x.size(2), x.size(3), inverse);
  return y;
}

struct Rotate : Function<Rotate> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin,
                            const at::Tensor &positions) {
    ctx->save_for_backward({cos, sin, positions});
    return turned(x, cos, sin, positions, false);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {turned(grads[0].contiguous(), saved[0], saved[1], saved[2], true), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

struct Gate : Function<Gate> {
  static at::Tensor forward(AutogradContext *ctx, int64_t f, const at::Tensor &a, const at::Tensor &b) {
    ctx->save_for_backward({a, b});
    ctx->saved_data["f"] = f;
    return value(f, a, b);
  }

  static at::Tensor value(int64_t f, const at::Tensor &a, const at::Tensor &b) {
    at::Tensor y = at::empty_like(a);
    kernels::gate(static_cast<int>(f), a.data_ptr<float>(), b.data_ptr<float>(), y.data_ptr<float>(), a.numel());
    return y;
  }

  // again recomputes the result of forward.
  static at::Tensor again(AutogradContext *ctx) {
    const variable_list saved = ctx->get_saved_variables();
    return value(ctx->saved_data["f"].toInt(), saved[0], saved[1]);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &a = saved[0], &b = saved[1], &dy = grads[0], g = dy * b;
    const bool silu = ctx->saved_data["f"].toInt() == kernels::SILU;
    const at::Tensor da = silu ? at::silu_backward(g, a) : at::gelu_backward(g, a, "tanh");
    const at::Tensor db = (silu ? at::silu(a) : at::gelu(a, "tanh")).mul_(dy);
    return {at::Tensor(), da, db};
  }
};

// again recomputes the result of a norm or a gate from what that node keeps for its own backward pass. Beside a matrix product
// this costs almost nothing. For every other node it returns an undefined tensor.
at::Tensor again(torch::autograd::Node *node) {
  if (auto *norm = dynamic_cast<torch::autograd::CppNode<RMSNorm> *>(node)) return RMSNorm::again(&norm->ctx_);
  if (auto *gate = dynamic_cast<torch::autograd::CppNode<Gate> *>(node)) return Gate::again(&gate->ctx_);
  return {};
}

bool computes_again(torch::autograd::Node *node) {
  return dynamic_cast<torch::autograd::CppNode<RMSNorm> *>(node) || dynamic_cast<torch::autograd::CppNode<Gate> *>(node);
}

// Source is the node that has computed an input. Its backward pass runs after that of the nodes that use its result.
struct Source : torch::CustomClassHolder {
  using Node = std::decay_t<decltype(std::declval<const at::Tensor &>().grad_fn())>; // a shared pointer; which kind depends on libtorch
  explicit Source(Node n) : node(std::move(n)) {}
  const Node node;
};

struct Linear : Function<Linear> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w,
                            const std::optional<at::Tensor> &bias, bool in_first) {
    const auto &source = x.grad_fn();
    const bool keep = w.requires_grad() && !computes_again(source.get());
    if (w.requires_grad() && !keep) ctx->saved_data["source"] = at::IValue::make_capsule(c10::make_intrusive<Source>(source));
    ctx->save_for_backward({keep ? x : at::Tensor(), w});
    ctx->saved_data["in_first"] = in_first;
    ctx->saved_data["shape"] = x.sizes().vec();
    ctx->saved_data["bias"] = bias.has_value();
    const at::Tensor m = w.to(x.scalar_type());
    at::Tensor y = matrix_product(rows_of(x), in_first ? m : m.t());
    if (bias) y += *bias;
    auto shape = x.sizes().vec();
    shape.back() = y.size(1);
    return y.view(shape);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &w = saved[1];
    const bool in_first = ctx->saved_data["in_first"].toBool();
    const at::Tensor dy = rows_of(grads[0]);
    at::Tensor dx, db;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor m = w.to(dy.scalar_type());
      dx = matrix_product(dy, in_first ? m.t() : m).view(ctx->saved_data["shape"].toIntVector());
    }
    if (w.requires_grad()) {
      const auto source = ctx->saved_data.find("source");
      const at::Tensor x = source == ctx->saved_data.end()
                               ? saved[0]
                               : again(static_cast<Source *>(source->second.toCapsule().get())->node.get());
      if (in_first)
        add_product(w, rows_of(x).t(), dy);
      else
        add_product(w, dy.t(), rows_of(x));
    }
    if (ctx->saved_data["bias"].toBool()) db = wide(dy).sum(0).to(w.scalar_type());
    return {dx, at::Tensor(), db, at::Tensor()};
  }
};

// segment is a sequence of packed attention: its own rows attend to the rows of a prefix, and to each other from left to right.
struct segment {
  int64_t prefix, prefix_length, own, length;
  int64_t keys() const { return prefix_length + length; }
};

std::vector<segment> segments(const std::vector<int64_t> &numbers) {
  std::vector<segment> list;
  for (size_t i = 0; i + 3 < numbers.size(); i += 4)
    list.push_back({numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]});
  return list;
}

// gather returns the rows of a segment in x [N, heads, D] -> [heads, keys, D], in Float32 or Float64.
at::Tensor gather(const at::Tensor &x, const segment &s) {
  at::Tensor rows = x.narrow(0, s.own, s.length);
  if (s.prefix_length > 0) rows = at::cat({x.narrow(0, s.prefix, s.prefix_length), rows});
  return wide(rows.transpose(0, 1)).contiguous();
}

// block is some queries of a segment, and the keys that they may see.
struct block {
  int64_t from, count;  // queries, as rows of the segment itself
  int64_t first, keys;  // keys, as rows of the segment with its prefix
  at::Tensor hidden;    // [count, keys]: the keys that a query does not see; undefined if all queries see all keys
};

std::vector<block> blocks(const segment &s, int64_t window, const at::Device &device) {
  constexpr int64_t most = 256;
  std::vector<block> list;
  for (int64_t from = 0; from < s.length; from += most) {
    block b = {from, std::min(most, s.length - from), 0, 0, {}};
    const int64_t last = s.prefix_length + from + b.count; // one behind the last key
    if (window > 0) b.first = std::max<int64_t>(0, s.prefix_length + from + 1 - window);
    b.keys = last - b.first;
    const auto options = at::TensorOptions().dtype(at::kLong).device(device);
    const at::Tensor q = at::arange(s.prefix_length + from, last, options).unsqueeze(1), k = at::arange(b.first, last, options);
    b.hidden = k > q;
    if (window > 0) b.hidden = b.hidden.logical_or(k <= q - window);
    list.push_back(b);
  }
  return list;
}

// queries are those of a block in x [N, Heads, D] -> [heads, groups·count, D], scaled, in Float32 or Float64.
at::Tensor queries(const at::Tensor &x, const segment &s, const block &b, int64_t heads, double scale) {
  const int64_t groups = x.size(1) / heads, d = x.size(2);
  at::Tensor q = wide(x.narrow(0, s.own + b.from, b.count)).view({b.count, heads, groups, d}).permute({1, 2, 0, 3});
  return (scale == 1 ? q.contiguous() : q * scale).reshape({heads, groups * b.count, d});
}

// scores are q·kᵀ of a block, -inf where hidden: [heads, groups·count, keys].
at::Tensor scores(const at::Tensor &q, const at::Tensor &k, const block &b) {
  at::Tensor s = at::bmm(q, k.narrow(1, b.first, b.keys).transpose(1, 2));
  s.view({s.size(0), -1, b.count, b.keys}).masked_fill_(b.hidden, -std::numeric_limits<double>::infinity());
  return s;
}

// rows turns [heads, groups·count, D] into [count, Heads, D].
at::Tensor rows(const at::Tensor &x, int64_t count) {
  return x.view({x.size(0), -1, count, x.size(2)}).permute({2, 0, 1, 3}).reshape({count, -1, x.size(2)});
}

struct Attention : Function<Attention> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                            const std::vector<int64_t> &numbers, int64_t window, double scale) {
    const int64_t heads = k.size(1);
    at::Tensor out = at::empty(q.sizes(), q.options());
    at::Tensor lse = at::empty({heads, q.size(1) / heads, q.size(0)}, wide(q.narrow(0, 0, 0)).options());
    for (const segment &s : segments(numbers)) {
      const at::Tensor ks = gather(k, s), vs = gather(v, s);
      for (const block &b : blocks(s, window, q.device())) {
        at::Tensor p = scores(queries(q, s, b, heads, scale), ks, b);
        const at::Tensor most = p.amax(-1, true);
        p.sub_(most).exp_();
        const at::Tensor sum = p.sum(-1, true);
        const at::Tensor o = at::bmm(p, vs.narrow(1, b.first, b.keys)).div_(sum);
        out.narrow(0, s.own + b.from, b.count).copy_(rows(o, b.count));
        lse.narrow(2, s.own + b.from, b.count).copy_(most.add(sum.log()).view({heads, -1, b.count}));
      }
    }
    ctx->save_for_backward({q, k, v, out, lse});
    ctx->saved_data["segments"] = numbers;
    ctx->saved_data["window"] = window;
    ctx->saved_data["scale"] = scale;
    return out;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &lse = saved[4];
    const int64_t heads = k.size(1), window = ctx->saved_data["window"].toInt();
    const double scale = ctx->saved_data["scale"].toDouble();
    const auto options = lse.options();
    const at::Tensor dout = grads[0].contiguous();
    at::Tensor dq = at::empty(q.sizes(), q.options());
    at::Tensor dk = at::zeros(k.sizes(), options), dv = at::zeros(v.sizes(), options);
    for (const segment &s : segments(ctx->saved_data["segments"].toIntVector())) {
      const at::Tensor ks = gather(k, s), vs = gather(v, s);
      at::Tensor dks = at::zeros_like(ks), dvs = at::zeros_like(vs);
      for (const block &b : blocks(s, window, q.device())) {
        const at::Tensor qb = queries(q, s, b, heads, scale), db = queries(dout, s, b, heads, 1);
        at::Tensor p = scores(qb, ks, b);
        p.sub_(lse.narrow(2, s.own + b.from, b.count).reshape({heads, -1, 1})).exp_();
        const at::Tensor kb = ks.narrow(1, b.first, b.keys), vb = vs.narrow(1, b.first, b.keys);
        dvs.narrow(1, b.first, b.keys).baddbmm_(p.transpose(1, 2), db);
        const at::Tensor delta = (db * queries(out, s, b, heads, 1)).sum(-1, true);
        p.mul_(at::bmm(db, vb.transpose(1, 2)).sub_(delta));
        dq.narrow(0, s.own + b.from, b.count).copy_(rows(at::bmm(p, kb).mul_(scale), b.count));
        dks.narrow(1, b.first, b.keys).baddbmm_(p.transpose(1, 2), qb);
      }
      const at::Tensor dkr = dks.transpose(0, 1), dvr = dvs.transpose(0, 1);
      if (s.prefix_length > 0) {
        dk.narrow(0, s.prefix, s.prefix_length).add_(dkr.narrow(0, 0, s.prefix_length));
        dv.narrow(0, s.prefix, s.prefix_length).add_(dvr.narrow(0, 0, s.prefix_length));
      }
      dk.narrow(0, s.own, s.length).add_(dkr.narrow(0, s.prefix_length, s.length));
      dv.narrow(0, s.own, s.length).add_(dvr.narrow(0, s.prefix_length, s.length));
    }
    return {dq, dk.to(k.scalar_type()), dv.to(v.scalar_type()), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// part is some rows of the output head.
struct part {
  at::Tensor exponents, sums, logp; // [n, V], [n], [n]
};

part head_part(const at::Tensor &h, const at::Tensor &w, const at::Tensor &targets) {
  at::Tensor x = wide(matrix_product(h, w.to(h.scalar_type()).t()));
  part p = {x, at::empty({x.size(0)}, x.options()), at::empty({x.size(0)}, x.options())};
  if (fast(x)) {
    kernels::exponents(x.data_ptr<float>(), targets.data_ptr<int64_t>(), p.logp.data_ptr<float>(),
                       p.sums.data_ptr<float>(), x.size(0), x.size(1));
    return p;
  }
  x.sub_(x.amax(-1, true));
  const at::Tensor target = x.gather(1, targets.unsqueeze(1)).squeeze(1);
  x.exp_();
  p.sums = x.sum(-1);
  p.logp = target - p.sums.log();
  return p;
}

// gradient makes the gradient of the logits of p's exponents, in place.
at::Tensor head_gradient(part &p, const at::Tensor &targets, const at::Tensor &grad) {
  if (fast(p.exponents)) {
    kernels::head_gradient(p.exponents.data_ptr<float>(), targets.data_ptr<int64_t>(), p.sums.data_ptr<float>(),
                           grad.data_ptr<float>(), p.exponents.size(0), p.exponents.size(1));
    return p.exponents;
  }
  p.exponents.mul_((-grad / p.sums).unsqueeze(1));
  return p.exponents.scatter_add_(1, targets.unsqueeze(1), grad.unsqueeze(1));
}

struct Head : Function<Head> {
  // Returns the size of the parts of n rows: as few parts as possible, of nearly equal size and at most `most` rows.
  static int64_t part_rows(int64_t n, int64_t most) {
    const int64_t parts = std::max<int64_t>(1, (n + most - 1) / most);
    return (n + parts - 1) / parts;
  }

  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &h, const at::Tensor &w, const at::Tensor &targets,
                            int64_t most) {
    const int64_t n = h.size(0), size = part_rows(n, most);
    ctx->saved_data["size"] = size;
    at::Tensor logp = at::empty({n}, wide(h.narrow(0, 0, 0)).options());
    variable_list saved = {h, w, targets};
    for (int64_t i = 0; i < n; i += size) {
      const int64_t count = std::min(size, n - i);
      const part p = head_part(h.narrow(0, i, count), w, targets.narrow(0, i, count));
      logp.narrow(0, i, count).copy_(p.logp);
      if (count == n) saved.insert(saved.end(), {p.exponents, p.sums}); // a single part is not computed again
    }
    ctx->save_for_backward(saved);
    return logp;
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &w = saved[1], &targets = saved[2], grad = grads[0].contiguous();
    const int64_t n = h.size(0), size = ctx->saved_data["size"].toInt();
    at::Tensor dh = at::empty_like(h);
    for (int64_t i = 0; i < n; i += size) {
      const int64_t count = std::min(size, n - i);
      const at::Tensor rows = h.narrow(0, i, count), wanted = targets.narrow(0, i, count);
      part p = saved.size() > 3 ? part{saved[3], saved[4], {}} : head_part(rows, w, wanted);
      const at::Tensor g = head_gradient(p, wanted, grad.narrow(0, i, count)).to(h.scalar_type());
      dh.narrow(0, i, count).copy_(matrix_product(g, w.to(h.scalar_type())));
      if (w.requires_grad()) add_product(w, g.t(), rows);
    }
    return {dh, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Recompute runs a Go function, and runs it again in the backward pass instead of keeping what it computed.
struct Recompute : Function<Recompute> {
  static at::Tensor call(uintptr_t engine, uint64_t id, const at::Tensor &x) {
    void *y = nullptr;
    char *msg = goRecompute(engine, id, new at::Tensor(x), &y);
    if (msg) {
      const std::string text(msg);
      free(msg);
      throw std::runtime_error(text);
    }
    const std::unique_ptr<at::Tensor> owned(static_cast<at::Tensor *>(y));
    return *owned;
  }

  // grad requires a gradient even if x does not, so that tensors which the function itself uses get theirs.
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &grad, uintptr_t engine,
                            uint64_t id) {
    ctx->save_for_backward({x});
    ctx->saved_data["engine"] = static_cast<int64_t>(engine);
    ctx->saved_data["id"] = static_cast<int64_t>(id);
    return call(engine, id, x);
  }

  static variable_list backward(AutogradContext *ctx, const variable_list &grads) {
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_();
    {
      at::AutoGradMode on(true);
      const at::Tensor y = call(static_cast<uintptr_t>(ctx->saved_data["engine"].toInt()),
                                static_cast<uint64_t>(ctx->saved_data["id"].toInt()), x);
      torch::autograd::backward({y}, {grads[0]});
    }
    return {x.grad(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

} // namespace

char *shim_recompute(void **out, void *x, uintptr_t engine, uint64_t id) {
  TRY({
    const at::Tensor grad = at::zeros({0}, T(x).options()).requires_grad_(at::GradMode::is_enabled());
    give(out, Recompute::apply(T(x), grad, engine, id));
  })
}

char *shim_train_linear(void **out, void *x, void *weight, void *bias, int in_first) {
  TRY(give(out, Linear::apply(T(x), T(weight), bias ? std::optional<at::Tensor>(T(bias)) : std::nullopt, in_first != 0));)
}

char *shim_train_embed(void **out, void *weight, void *ids) {
  TRY({
    want(T(weight).dim() == 2 && T(ids).scalar_type() == at::kLong, "want a matrix and int64 ids");
    give(out, Embed::apply(T(weight), T(ids)));
  })
}

at::Tensor differentiable_rms_norm(const at::Tensor &x, const at::Tensor &weight, double offset, double eps) {
  return RMSNorm::apply(x, weight, offset, eps);
}

at::Tensor differentiable_rotate(const at::Tensor &x, const at::Tensor &cos, const at::Tensor &sin,
                                 const at::Tensor &positions) {
  return Rotate::apply(x, cos, sin, positions);
}

at::Tensor differentiable_gate(int f, const at::Tensor &a, const at::Tensor &b) {
  return Gate::apply(static_cast<int64_t>(f), a, b);
}

char *shim_train_attention(void **out, void *q, void *k, void *v, const int64_t *numbers, size_t count, int64_t window,
                           double scale, int fused) {
  TRY({
    const at::Tensor &a = T(q), &b = T(k);
    want(a.dim() == 3 && b.dim() == 3 && b.sizes() == T(v).sizes() && a.size(0) <= b.size(0) && a.size(2) == b.size(2) &&
             b.size(1) > 0 && a.size(1) % b.size(1) == 0,
         "want q [N, Heads, D], k and v [N or more, heads, D], Heads a multiple of heads");
    const std::vector<int64_t> list(numbers, numbers + count);
    int64_t covered = 0;
    for (const segment &s : segments(list)) {
      want(s.prefix >= 0 && s.prefix_length >= 0 && s.prefix + s.prefix_length <= b.size(0) && s.length >= 0 &&
               s.own == covered,
           "the segments do not follow each other");
      covered += s.length;
    }
    want(covered == a.size(0), "the segments do not cover the rows");
    give(out, fused ? fused_packed_attention(a, b, T(v), numbers, count, window, scale)
                    : Attention::apply(a, b, T(v), list, window, scale));
  })
}

char *shim_train_head(void **out, void *h, void *weight, void *targets, int64_t most) {
  TRY({
    const at::Tensor &x = T(h), &w = T(weight), &t = T(targets);
    want(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1) && t.scalar_type() == at::kLong && t.dim() == 1 &&
             t.size(0) == x.size(0) && t.is_contiguous(),
         "want h [N, H], a weight [V, H] and int64 targets [N]");
    want(t.numel() == 0 || (t.min().item<int64_t>() >= 0 && t.max().item<int64_t>() < w.size(0)),
         "a target is not in the vocabulary");
    want(most > 0, "want at least one row at a time");
    give(out, Head::apply(x.contiguous(), w, t, most));
  })
}
