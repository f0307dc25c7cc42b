#include "engine/node/device_sum.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/json_reader.h"
#include "kernels/backend.h"
#include "kernels/copy.h"

namespace skippipe {
namespace {

using State = Communicator::State;
using nlohmann::json;

constexpr size_t kLongestText = 500;  // of others, in what we print

std::string printable(std::string text) {
  text.resize(std::min(text.size(), kLongestText));
  std::ranges::replace_if(
      text, [](unsigned char c) { return c < ' ' || c == 127; }, ' ');
  return text;
}

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

std::vector<std::byte> read_hex(const JsonReader& value) {
  const std::string text = value.as_string();
  std::vector<std::byte> bytes(text.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const char* const digits = text.data() + 2 * i;
    uint8_t byte = 0;
    if (std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) value.fail("pairs of hexadecimal digits");
    bytes[i] = std::byte{byte};
  }
  if (text.size() % 2 != 0) value.fail("pairs of hexadecimal digits");
  return bytes;
}

// The trial: what a replica has at some places of its gradients, zero elsewhere. Small integers, whose sums are exact
// in any order.
constexpr size_t kTrialPlaces = 1024;

template <typename Visitor>
void visit_trial_places(size_t elements, const Visitor& visit) {
  const size_t places = std::min(elements, kTrialPlaces);
  for (size_t i = 0; i < places; ++i) visit(places == 1 ? 0 : i * (elements - 1) / (places - 1), i);
}
float trial_value(size_t replica, size_t place) { return static_cast<float>((replica % 16 + 1) * (place % 251 + 1)); }

}  // namespace

DeviceSum::DeviceSum(Transport& transport, std::vector<int> replicas, Stage& stage, Tensor host, Transfers* transfers,
                     const ReductionSettings& settings, std::function<void()> wake)
    : transport_(transport),
      stage_(stage),
      gradients_(stage.gradients()),
      host_(host),
      transfers_(transfers),
      settings_(settings),
      wake_(std::move(wake)),
      documents_(transport, [this](int from, const std::string& text) { hear(from, text); }) {
  for (const int node : replicas) replicas_.push_back({node, {}, {}});
  own_ = static_cast<size_t>(std::ranges::find(replicas, transport.node()) - replicas.begin());
  SKP_CHECK(own_ < replicas_.size(), "node {} is none of its stage's replicas", transport.node());
}

DeviceSum::Replica* DeviceSum::find(int node) {
  const auto found = std::ranges::find(replicas_, node, &Replica::node);
  return found == replicas_.end() || node == transport_.node() ? nullptr : &*found;
}

// ---- agreeing

void DeviceSum::agree() {
  SKP_CHECK(step_ == Step::kBefore);
  if (replicas_.size() == 1 || !settings_.between_devices) {
    step_ = Step::kUnused;
    return;
  }
  step_ = Step::kOffering;
  replicas_[own_].offer = make_offer();
  if (own_ != 0) tell_offer();
  advance();
}

DeviceSum::Offer DeviceSum::make_offer() {
  if (transfers_ == nullptr) return {.problem = "computes on the CPU"};
  try {
    library_ = stage_.context().backend->runtime().load_communicators();
    if (!library_) return {.problem = "has nothing that connects its device to others (it was built without NCCL)"};
    return {.problem = {}, .library = library_->name()};
  } catch (const DeviceError& error) {
    return {.problem = error.what()};
  }
}

void DeviceSum::tell_offer() {
  if (std::exchange(offered_, true)) return;
  const Offer& own = *replicas_[own_].offer;
  tell(json{{"problem", own.problem}, {"library", own.library}, {"id", to_hex(own.id)}}.dump());
}

void DeviceSum::tell(const std::string& text) {
  for (const Replica& replica : replicas_)
    if (replica.node != transport_.node()) documents_.send(replica.node, text);
}

void DeviceSum::hear(int from, const std::string& text) {
  Replica& replica = *find(from);
  const std::string where = fmt::format("node {}, of its device", from);
  try {
    const json document = parse_json(text, where);
    const JsonReader reader(document, where);
    const std::string problem = printable(reader.at("problem").as_string());
    if (!replica.offer) {
      replica.offer = {problem, printable(reader.at("library").as_string()), read_hex(reader.at("id"))};
    } else if (!replica.problem) {
      replica.problem = problem;
    } else {
      throw FileError("{}: a third document", where);
    }
  } catch (const FileError& error) {
    return fail({StatusCode::kCorrupt, error.what()});
  }
  advance();
}

// What was heard may end any step.
void DeviceSum::advance() {
  if (step_ == Step::kOffering) judge_offers();
  if (step_ == Step::kConnecting || step_ == Step::kTrying || step_ == Step::kAwaiting) judge_results();
}

void DeviceSum::judge_offers() {
  const Offer& own = *replicas_[own_].offer;
  for (const Replica& replica : replicas_) {
    if (!replica.offer) continue;
    const Offer& offer = *replica.offer;
    if (!offer.problem.empty()) return give_up(fmt::format("node {} {}", replica.node, offer.problem));
    if (own.problem.empty() && offer.library != own.library)
      return give_up(
          fmt::format("node {} has {}, node {} {}", replica.node, offer.library, transport_.node(), own.library));
  }
  if (!std::ranges::all_of(replicas_, [](const Replica& replica) { return replica.offer.has_value(); })) return;
  if (own_ == 0) name_group();
  if (step_ == Step::kOffering) connect();
}

// Not before all want it: the library may listen for the group from then on.
void DeviceSum::name_group() {
  Offer& own = *replicas_[0].offer;
  try {
    own.id = library_->make_id();
    tell_offer();
  } catch (const DeviceError& error) {
    own.problem = error.what();
    judge_offers();
  }
}

void DeviceSum::connect() {
  step_ = Step::kConnecting;
  patience_.emplace(std::chrono::duration<double>(settings_.connect_limit_s));
  try {
    communicator_ =
        library_->connect(replicas_[0].offer->id, static_cast<int>(own_), static_cast<int>(replicas_.size()), wake_);
  } catch (const DeviceError& error) {
    report(error.what());
  }
}

// The result of this node, once.
void DeviceSum::report(std::string problem) {
  tell(json{{"problem", problem}}.dump());
  replicas_[own_].problem = std::move(problem);
  if (step_ == Step::kTrying) step_ = Step::kAwaiting;
  judge_results();
}

void DeviceSum::judge_results() {
  bool all = true;
  for (const Replica& replica : replicas_) {
    if (!replica.problem) {
      all = false;
    } else if (!replica.problem->empty()) {
      return give_up(fmt::format("node {}: {}", replica.node, *replica.problem));
    }
  }
  if (!all) return;
  step_ = Step::kUsed;
  std::vector<int> nodes;
  for (const Replica& replica : replicas_) nodes.push_back(replica.node);
  outcome_ = fmt::format("by {} between nodes {}", library_->name(), fmt::join(nodes, ", "));
}

void DeviceSum::give_up(std::string why) {
  tell_offer();
  step_ = Step::kGivingUp;
  outcome_ = "over the network: " + std::move(why);
  if (communicator_) communicator_->abort();
  end_if_let_go();
}

// The transport may have the gradients once neither copies nor a sum can change them. What hangs before it had them is
// left alone.
void DeviceSum::end_if_let_go() {
  if (step_ != Step::kGivingUp || copying_) return;
  const bool over = !communicator_ || communicator_->state() == State::kFailed;
  if (trying_ && !over) return;
  if (over) communicator_.reset();
  if (dirty_) {
    stage_.zero_gradients();
    finish(stage_.context());
  }
  step_ = Step::kUnused;
}

void DeviceSum::watch_connection() {
  const State state = communicator_->state();
  if (state == State::kFailed) return report(communicator_->status().message());
  if (patience_->is_over())
    return report(fmt::format("{} {} within {} s", library_->name(),
                              step_ == Step::kTrying ? "did not sum" : "was not connected", settings_.connect_limit_s));
  if (state == State::kBusy || copying_) return;
  if (step_ == Step::kConnecting) return try_sum();
  copying_ = true;
  transfers_->download(host_, gradients_, [this] {
    copying_ = false;
    if (step_ == Step::kTrying) check_trial();
    end_if_let_go();
  });
}

// Of all that is summed later: what a library takes only when it is needed is taken now.
void DeviceSum::try_sum() {
  step_ = Step::kTrying;
  auto* const host = host_.as<float>();
  visit_trial_places(static_cast<size_t>(host_.elements()),
                     [&](size_t at, size_t place) { host[at] = trial_value(own_, place); });
  dirty_ = copying_ = true;
  transfers_->upload(gradients_, host_, [this] {
    copying_ = false;
    if (step_ == Step::kTrying) {
      trying_ = true;
      communicator_->sum(gradients_.as<float>(), gradients_.elements());
    }
    end_if_let_go();
  });
}

void DeviceSum::check_trial() {
  const auto* const host = host_.as<const float>();
  size_t wrong = 0, places = 0;
  visit_trial_places(static_cast<size_t>(host_.elements()), [&](size_t at, size_t place) {
    float expected = 0;
    for (size_t replica = 0; replica < replicas_.size(); ++replica) expected += trial_value(replica, place);
    wrong += host[at] != expected;
    ++places;
  });
  if (wrong > 0) return report(fmt::format("{} summed {} of {} values wrongly", library_->name(), wrong, places));
  stage_.zero_gradients();
  finish(stage_.context());
  dirty_ = false;
  report("");
}

// ---- summing

void DeviceSum::start() {
  SKP_CHECK(used() && !summing_);
  if (!status_.ok()) return;
  if (communicator_->state() == State::kFailed) return fail(communicator_->status());
  summing_ = true;
  communicator_->sum(gradients_.as<float>(), gradients_.elements());
}

bool DeviceSum::poll() {
  const Step before = step_;
  if (step_ == Step::kConnecting || step_ == Step::kTrying) watch_connection();
  end_if_let_go();
  return step_ != before || poll_sum();
}

bool DeviceSum::poll_sum() {
  if (!summing_ || communicator_->state() == State::kBusy) return false;
  summing_ = false;
  if (communicator_->state() == State::kFailed) fail(communicator_->status());
  return true;
}

void DeviceSum::fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
  summing_ = false;
  if (communicator_) communicator_->abort();
}

// ---- events

bool DeviceSum::on_announced(Ticket ticket, const MessageHeader& header) {
  if (header.kind != MessageKind::kDocument) return false;
  if (find(header.source) == nullptr || !settings_.between_devices) {
    fail({StatusCode::kCorrupt, fmt::format("{}: none was expected", header.to_string())});
    return true;
  }
  documents_.on_announced(ticket, header);
  if (!documents_.status().ok()) fail(documents_.status());
  return true;
}

bool DeviceSum::on_received(Ticket ticket, const MessageHeader& header, const Status& status) {
  if (!documents_.on_received(ticket, header, status)) return false;
  if (!documents_.status().ok()) fail(documents_.status());
  return true;
}

void DeviceSum::on_peer_failed(int node, const Status& status) {
  if (find(node) != nullptr) fail(status);
}

}  // namespace skippipe
