// Ours: placement, paths and start order searched together on simulated time, where arXiv:2502.19913 fixes the
// placement before it looks for paths.
//
// Simulated annealing (Kirkpatrick, Gelatt, Vecchi 1983), one search per thread from a start of its own. The searches
// meet a few times; then those that are behind go on from the best.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "base/error.h"
#include "schedule/dtfm_placement.h"
#include "schedule/evaluator.h"
#include "schedule/moves.h"
#include "schedule/paths.h"
#include "schedule/search.h"

namespace skippipe {
namespace {

double env(const char* name, double fallback) {
  const char* text = std::getenv(name);
  return text ? atof(text) : fallback;
}

using Clock = std::chrono::steady_clock;

// Of the best iteration so far: a change for the worse by this much is accepted with probability 1/e. Tuned on the
// published example and drawn networks of 18 to 64 nodes.
constexpr double kFirstTemperature = 0.007;
constexpr double kLastTemperature = 0.0007;
constexpr int kMeetings = 8;
constexpr int kStepsPerLook = 8;  // at the clock
constexpr auto kReportInterval = std::chrono::milliseconds(100);

Candidate candidate_of(const Plan& plan) {
  Candidate candidate;
  candidate.length = static_cast<int>(plan.microbatches.front().visits.size());
  candidate.stages = plan.stages;
  for (const PlannedMicrobatch& microbatch : plan.microbatches)
    for (const PlannedVisit& visit : microbatch.visits) candidate.nodes.push_back(visit.node);
  return candidate;
}

void take_paths(const Candidate& candidate, Plan& plan) {
  plan.stages = candidate.stages;
  for (std::vector<int>& stage : plan.stages) std::ranges::sort(stage);
  size_t next = 0;
  for (PlannedMicrobatch& microbatch : plan.microbatches)
    for (PlannedVisit& visit : microbatch.visits) visit.node = candidate.nodes[next++];
}

// How much of its budget a search has used: what counts more of evaluations and seconds. Owned by one search.
class Share {
 public:
  Share(const SearchBudget& budget, Clock::time_point start)
      : evaluations_(static_cast<double>(budget.evaluations) / budget.threads),
        seconds_(budget.seconds),
        start_(start) {}

  double of(int64_t evaluations) const {
    double share = 0;
    if (evaluations_ > 0) share = static_cast<double>(evaluations) / evaluations_;
    if (seconds_ > 0) share = std::max(share, std::chrono::duration<double>(Clock::now() - start_).count() / seconds_);
    return share;
  }

 private:
  double evaluations_;
  double seconds_;
  Clock::time_point start_;
};

// One thread's search.
class Annealing {
 public:
  Annealing(const PlanRequest& request, Candidate start, uint64_t number)
      : evaluator_(request), moves_(request), random_(request.seed, {2, number}), current_(std::move(start)) {
    cost_ = evaluator_.evaluate(current_);
    evaluator_.accept();
    keep_best();
  }

  // Until the budget's share `end` is used; `look` is called now and then.
  template <typename Look>
  void run(const Share& share, double end, const Look& look) {
    static const double t0 = env("T0", kFirstTemperature), t1 = env("T1", kLastTemperature);
    for (int64_t step = 0;; ++step) {
      if (step % kStepsPerLook == 0) {
        // A change that finds nothing to do counts a little, so that the search ends where there is nothing to find.
        const double used = share.of(evaluations_ + idle_ / 4);
        if (used >= end) return;
        temperature_ = best_cost_.seconds * t0 * std::pow(t1 / t0, used);
        look();
      }
      this->step();
    }
  }

  // Goes on from where another one is.
  void follow(const Annealing& other) {
    current_ = other.best_;
    cost_ = evaluator_.evaluate(current_);
    evaluator_.accept();
    keep_best();
  }

  const Candidate& best() const { return best_; }
  const Cost& best_cost() const { return best_cost_; }
  const Cost& cost() const { return cost_; }
  int64_t evaluations() const { return evaluations_; }

 private:
  void step() {
    candidate_ = current_;
    if (!moves_.change(candidate_, cost_.seconds > 0 ? cost_.seconds : 1, random_)) {
      ++idle_;
      return;
    }
    // Metropolis, the other way round: with the random number first, a candidate need not be simulated to its end.
    Cost limit = cost_;
    limit.seconds -= temperature_ * std::log(1 - random_.uniform());
    const Cost cost = evaluator_.evaluate(candidate_, limit);
    ++evaluations_;
    if (cost > limit) return;
    evaluator_.accept();
    std::swap(current_, candidate_);
    cost_ = cost;
    keep_best();
  }

  void keep_best() {
    if (cost_ >= best_cost_) return;
    best_ = current_;
    best_cost_ = cost_;
  }

  Evaluator evaluator_;
  Moves moves_;
  Random random_;
  Candidate current_, candidate_, best_;
  Cost cost_, best_cost_ = Cost::infinite();
  double temperature_ = 0;
  int64_t evaluations_ = 0;
  int64_t idle_ = 0;
};

class JointPlanner : public Planner {
 public:
  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_request(request)) return *std::move(infeasible);
    const int length = path_length(request);
    if (length < 1) return no_visits(request, length);
    const auto start = Clock::now();
    Random random(request.seed, {1});
    std::vector<std::unique_ptr<Annealing>> searches;
    for (int i = 0; i < request.budget.threads; ++i) {
      const auto first = first_candidate(request, length, random);
      if (!first) return no_paths(request, length);
      searches.push_back(std::make_unique<Annealing>(request, *first, static_cast<uint64_t>(i)));
    }
    const Annealing& best = anneal(request, searches, start);
    PlanRequest placed = request;
    placed.stages = best.best().stages;
    Plan plan = begin_plan(placed, "joint", request.rules, length);
    take_paths(best.best(), plan);
    return finish_plan(request, std::move(plan));
  }

 private:
  static std::optional<Candidate> first_candidate(const PlanRequest& request, int length, Random& random) {
    PlanRequest placed = request;
    if (request.stages.empty()) {
      if (env("DTFM", 0) > 0) {
        placed.budget.evaluations = 2000;
        placed.seed = random();
        BudgetMeter meter(placed);
        placed.stages = place_stages(placed, meter).best_first.at(0).stages;
      } else {
        placed.stages = random_stages(request, random);
      }
    }
    Plan plan = begin_plan(placed, "joint", request.rules, length);
    const auto paths = draw_stages(placed, plan.microbatches.size(), length, random);
    if (!paths) return std::nullopt;
    place_by_load(placed, *paths, plan);
    return candidate_of(plan);
  }

  // Returns the best of the searches.
  static const Annealing& anneal(const PlanRequest& request, std::vector<std::unique_ptr<Annealing>>& searches,
                                 Clock::time_point start) {
    const Share share(request.budget, start);
    const Annealing* best = best_of(searches);
    auto next_report = start + kReportInterval;
    const auto report = [&] {
      const auto now = Clock::now();
      if (!request.progress || now < next_report) return;
      next_report = now + kReportInterval;
      const Cost cost = std::min(best->best_cost(), searches[0]->best_cost());
      request.progress({.evaluations = searches[0]->evaluations() * request.budget.threads,
                        .elapsed_s = std::chrono::duration<double>(now - start).count(),
                        .best_s = cost.unfinished > 0 ? std::numeric_limits<double>::infinity() : cost.seconds});
    };
    static const int meetings = (int)env("MEET", kMeetings);
    for (int meeting = 1; meeting <= meetings; ++meeting) {
      const double end = static_cast<double>(meeting) / meetings;
      {
        std::vector<std::jthread> threads;
        for (size_t i = 1; i < searches.size(); ++i)
          threads.emplace_back([&, i] { searches[i]->run(share, end, [] {}); });
        searches[0]->run(share, end, report);
      }
      best = best_of(searches);
      if (std::getenv("SHOW"))
        for (const auto& s : searches)
          fmt::print(stderr, "{} {} cur {} best {} evals {}\n", meeting, s->cost().unfinished, s->cost().seconds,
                     s->best_cost().seconds, s->evaluations());
      if (meeting < meetings)
        for (const auto& search : searches)
          if (search.get() != best) search->follow(*best);
    }
    return *best;
  }

  static const Annealing* best_of(const std::vector<std::unique_ptr<Annealing>>& searches) {
    const Annealing* best = searches[0].get();
    for (const auto& search : searches)
      if (search->best_cost() < best->best_cost()) best = search.get();
    return best;
  }
};

}  // namespace

std::unique_ptr<Planner> make_joint_planner() { return std::make_unique<JointPlanner>(); }

}  // namespace skippipe
