#include "tools/report/iteration_picture.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

namespace skippipe {
namespace {

using Track = TraceEvent::Track;
using What = TraceEvent::What;
using Work = SimulationRecord::Work;
using Transfer = SimulationRecord::Transfer;
using Span = std::pair<double, double>;

// How long at least one of the spans lasts.
double covered(std::vector<Span> spans) {
  std::ranges::sort(spans);
  double sum = 0, end = -std::numeric_limits<double>::infinity();
  for (const auto& [from, to] : spans) {
    sum += std::max(0.0, to - std::max(from, end));
    end = std::max(end, to);
  }
  return sum;
}

void shift_to_start(IterationPicture& picture) {
  double begin = std::numeric_limits<double>::infinity(), end = -begin;
  const auto each = [&](auto&& visit) {
    for (Work& work : picture.record.work) visit(work);
    for (Transfer& transfer : picture.record.transfers) visit(transfer);
    for (CriticalPiece& piece : picture.critical) visit(piece);
  };
  each([&](auto& span) { begin = std::min(begin, span.start_s), end = std::max(end, span.end_s); });
  each([&](auto& span) { span.start_s -= begin, span.end_s -= begin; });
  picture.seconds = std::max(0.0, end - begin);
}

double planned_bytes(const Plan& plan, const Transfer& transfer) {
  if (transfer.kind != Transfer::Kind::kReduction) return static_cast<double>(plan.workload.activation_bytes);
  const auto stage = static_cast<size_t>(plan.stage_of_nodes()[static_cast<size_t>(transfer.from)]);
  return static_cast<double>(plan.workload.stage_gradient_bytes[stage]) /
         static_cast<double>(plan.stages[stage].size());
}

// What a trace has of the messages, both ends together.
struct Message {
  int from = -1, to = -1;
  int64_t bytes = 0;
  int64_t start_ns = -1, announced_ns = -1;  // -1: the trace does not have that end
  int64_t let_in_ns = -1, received_ns = -1;
};
using MessageKey = std::tuple<uint32_t, What, int, int, int>;  // iteration first

std::map<MessageKey, Message> messages_of(const Trace& trace, const Plan& plan) {
  std::map<MessageKey, Message> messages;
  for (const TracedNode& node : trace.nodes)
    for (const TraceEvent& event : node.events) {
      if (event.track != Track::kSend && event.track != Track::kReceive) continue;
      if (event.microbatch >= std::ssize(plan.microbatches)) continue;  // of the validation after the iteration
      const bool sends = event.track == Track::kSend;
      const int from = sends ? node.node : event.peer, to = sends ? event.peer : node.node;
      Message& message = messages[{event.iteration, event.what, event.microbatch, from, to}];
      message.from = from;
      message.to = to;
      message.bytes = event.bytes;
      if (sends) {
        message.start_ns = event.start_ns;
      } else {
        message.announced_ns = event.start_ns;
        message.let_in_ns = event.let_in_ns;
        message.received_ns = event.end_ns;
      }
    }
  std::erase_if(messages, [](const auto& entry) { return entry.second.start_ns < 0 || entry.second.announced_ns < 0; });
  return messages;
}

// Iterations that every traced node finished.
std::set<uint32_t> whole_iterations(const Trace& trace) {
  std::map<uint32_t, size_t> stepped;
  std::set<uint32_t> whole;
  for (const TracedNode& node : trace.nodes)
    for (const TraceEvent& event : node.events)
      if (event.track == Track::kCompute && event.what == What::kStep &&
          ++stepped[event.iteration] == trace.nodes.size())
        whole.insert(event.iteration);
  if (whole.size() > 1) whole.erase(0);
  return whole;
}

std::optional<Work> work_of(const TraceEvent& event, int node) {
  const auto work = [&](Work::Kind kind) {
    return Work{kind,
                node,
                event.microbatch,
                -1,
                event.iteration,
                static_cast<double>(event.start_ns) * 1e-9,
                static_cast<double>(event.end_ns) * 1e-9};
  };
  if (event.track == Track::kReduction) return work(Work::Kind::kReduce);
  if (event.track != Track::kCompute) return std::nullopt;
  switch (event.what) {
    case What::kForward:
      return work(Work::Kind::kForward);
    case What::kLoss:
      return work(Work::Kind::kLoss);
    case What::kBackward:
      return work(Work::Kind::kBackward);
    case What::kNorm:
      return work(Work::Kind::kNorm);
    case What::kStep:
      return work(Work::Kind::kStep);
    default:
      return std::nullopt;
  }
}

std::optional<Transfer::Kind> kind_of(What what) {
  switch (what) {
    case What::kForward:
      return Transfer::Kind::kForward;
    case What::kBackward:
      return Transfer::Kind::kBackward;
    case What::kReduceScatter:
    case What::kAllGather:
      return Transfer::Kind::kReduction;
    default:
      return std::nullopt;  // statistics are too small to draw
  }
}

bool draws_on(const Plan& plan, int node) { return node >= 0 && node < plan.node_count(); }

// Every whole iteration, with its work and transfers.
std::map<uint32_t, IterationPicture> pictures_of(const Trace& trace, const Plan& plan,
                                                 const std::set<uint32_t>& whole) {
  std::map<uint32_t, IterationPicture> pictures;
  for (const uint32_t iteration : whole) pictures[iteration].iteration = iteration;
  for (const TracedNode& node : trace.nodes)
    for (const TraceEvent& event : node.events)
      if (const auto work = work_of(event, node.node); work && whole.contains(event.iteration))
        pictures[event.iteration].record.work.push_back(*work);
  for (const auto& [key, message] : messages_of(trace, plan)) {
    const auto& [iteration, what, microbatch, from, to] = key;
    const auto kind = kind_of(what);
    if (!kind || !whole.contains(iteration) || !draws_on(plan, from) || !draws_on(plan, to)) continue;
    // A large message is announced before its content moves, which is when the receiver has a place for it. (Emulated
    // links delay the announcement by all that the transfer takes.)
    const auto add = [&](int64_t begin_ns, int64_t end_ns) {
      pictures[iteration].record.transfers.push_back({*kind, from, to, microbatch, iteration,
                                                      static_cast<double>(begin_ns) * 1e-9,
                                                      static_cast<double>(end_ns) * 1e-9});
    };
    add(message.start_ns, message.announced_ns);
    add(message.let_in_ns, message.received_ns);
    LinkUse& use = pictures[iteration].links[{from, to}];
    ++use.messages;
    use.bytes += static_cast<double>(message.bytes);
  }
  for (auto& [iteration, picture] : pictures) shift_to_start(picture);
  return pictures;
}

// A reduction is drawn from when the last replica of the stage began, as simulations do; before, replicas wait.
void start_reductions_together(IterationPicture& picture, const Plan& plan) {
  const std::vector<int> stage_of = plan.stage_of_nodes();
  std::map<int, double> start_s;
  for (const Work& work : picture.record.work)
    if (work.kind == Work::Kind::kReduce) {
      double& last = start_s[stage_of[static_cast<size_t>(work.node)]];
      last = std::max(last, work.start_s);
    }
  for (Work& work : picture.record.work)
    if (work.kind == Work::Kind::kReduce)
      work.start_s = std::min(work.end_s, start_s[stage_of[static_cast<size_t>(work.node)]]);
}

void measure_busy(IterationPicture& picture) {
  std::map<std::pair<int, int>, std::vector<Span>> spans;
  for (const Transfer& transfer : picture.record.transfers)
    spans[{transfer.from, transfer.to}].emplace_back(transfer.start_s, transfer.end_s);
  for (auto& [link, of_link] : spans) picture.links[link].busy_s = covered(std::move(of_link));
}

LinkUses mean_links(const std::map<uint32_t, IterationPicture>& pictures) {
  LinkUses sums;
  const auto count = static_cast<double>(pictures.size());
  for (const auto& [iteration, picture] : pictures)
    for (const auto& [link, use] : picture.links) {
      LinkUse& sum = sums[link];
      sum.messages += use.messages / count;
      sum.bytes += use.bytes / count;
      sum.busy_s += use.busy_s / count;
    }
  return sums;
}

NodeTime node_time(const TracedNode& node, const std::set<uint32_t>& whole) {
  NodeTime time;
  int64_t begin = std::numeric_limits<int64_t>::max(), end = std::numeric_limits<int64_t>::min();
  for (const TraceEvent& event : node.events) {
    if (!whole.contains(event.iteration) || (event.track != Track::kCompute && event.track != Track::kWait)) continue;
    if (event.what == What::kValidation) continue;
    begin = std::min(begin, event.start_ns);
    end = std::max(end, event.end_ns);
    const bool computes = event.track == Track::kCompute;
    double& sum = computes                         ? time.computing
                  : event.what == What::kForward   ? time.waiting_forward
                  : event.what == What::kBackward  ? time.waiting_backward
                  : event.what == What::kReduction ? time.waiting_reduction
                                                   : time.waiting_norm;
    sum += static_cast<double>(event.end_ns - event.start_ns);
  }
  int64_t ns = end > begin ? end - begin : 1;
  for (const TraceEvent& event : node.events)  // between two iterations
    if (event.what == What::kValidation && event.start_ns >= begin && event.end_ns <= end)
      ns -= event.end_ns - event.start_ns;
  const auto whole_ns = static_cast<double>(std::max<int64_t>(ns, 1));
  for (double* share :
       {&time.computing, &time.waiting_forward, &time.waiting_backward, &time.waiting_reduction, &time.waiting_norm})
    *share /= whole_ns;
  return time;
}

}  // namespace

double NodeTime::rest() const {
  return std::max(0.0, 1 - computing - waiting_forward - waiting_backward - waiting_reduction - waiting_norm);
}

IterationPicture planned_iteration(const Plan& plan, const Network& network) {
  Simulator simulator(network);
  IterationPicture picture{.iteration = 1, .seconds = 0, .record = {}, .links = {}};
  simulator.run(plan, {.iterations = 3, .record = &picture.record});
  picture.critical = critical_path(plan, picture.record, picture.iteration);
  std::erase_if(picture.record.work, [](const Work& work) { return work.iteration != 1; });
  std::erase_if(picture.record.transfers, [](const Transfer& transfer) { return transfer.iteration != 1; });
  shift_to_start(picture);
  for (const Transfer& transfer : picture.record.transfers) {
    LinkUse& use = picture.links[{transfer.from, transfer.to}];
    ++use.messages;
    use.bytes += planned_bytes(plan, transfer);
  }
  measure_busy(picture);
  return picture;
}

std::optional<TracedIterations> read_iterations(const Trace& trace, const Plan& plan) {
  TracedIterations traced;
  traced.nodes.resize(plan.node_names.size());
  std::set<int> seen;
  const std::set<uint32_t> whole = whole_iterations(trace);
  for (const TracedNode& node : trace.nodes) {
    traced.dropped += node.dropped;
    if (!draws_on(plan, node.node)) return std::nullopt;
    seen.insert(node.node);
    traced.nodes[static_cast<size_t>(node.node)] = node_time(node, whole);
  }
  for (int node = 0; node < plan.node_count(); ++node)
    if (!seen.contains(node)) traced.missing.push_back(node);
  std::map<uint32_t, IterationPicture> pictures = pictures_of(trace, plan, whole);
  if (pictures.empty()) return std::nullopt;
  std::vector<std::pair<double, uint32_t>> by_length;
  for (auto& [iteration, picture] : pictures) {
    measure_busy(picture);
    start_reductions_together(picture, plan);
    by_length.emplace_back(picture.seconds, iteration);
  }
  std::ranges::sort(by_length);
  traced.count = static_cast<uint32_t>(pictures.size());
  const LinkUses links = mean_links(pictures);
  traced.typical = std::move(pictures[by_length[by_length.size() / 2].second]);
  traced.typical.links = links;
  return traced;
}

}  // namespace skippipe
