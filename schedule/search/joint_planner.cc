// Ours: placement, paths and start order searched together on simulated time, where arXiv:2502.19913 fixes the
// placement before it looks for paths.
//
// Simulated annealing (Kirkpatrick, Gelatt, Vecchi 1983), one search per thread from a start of its own. The searches
// meet a few times; then those that are behind go on from the best.
#include <algorithm>
#include <cmath>
#include <exception>
#include <thread>

#include "schedule/search/dtfm_placement.h"
#include "schedule/search/evaluator.h"
#include "schedule/search/moves.h"
#include "schedule/search/paths.h"
#include "schedule/search/planning.h"
#include "schedule/search/router.h"

namespace skippipe {
namespace {

// A change for the worse by the temperature is accepted with probability 1/e. It begins at this share of the best
// iteration so far for a single microbatch, less for each of more, as each matters less. Tuned on the published example
// and drawn networks of 2 to 64 nodes.
constexpr double kFirstTemperature = 0.5;
constexpr double kCooling = 0.03;  // by the end
// Where a request brings a plan to begin from: as if this share of the cooling were over.
constexpr double kWarmStart = 0.5;
constexpr double kPlacementShare = 0.1;  // of the budget, for places to begin from
constexpr int kMeetings = 8;

// One thread's search.
class Annealing {
 public:
  Annealing(const PlanRequest& request, Candidate start, BudgetMeter& meter, uint64_t number)
      : evaluator_(request),
        moves_(request),
        meter_(meter),
        random_(request.seed, {2, number}),
        cooled_(request.start ? kWarmStart : 0) {
    begin_at(std::move(start));
  }

  // Until this share of the budget is used.
  void run(double share) {
    for (;;) {
      const double used = meter_.used();
      if (used >= share) return;
      temperature_ = best_cost_.seconds * kFirstTemperature / current_.microbatches() *
                     std::pow(kCooling, cooled_ + (1 - cooled_) * used);
      step();
    }
  }

  // Goes on from there.
  void begin_at(Candidate start) {
    current_ = std::move(start);
    cost_ = evaluator_.evaluate(current_);
    evaluator_.accept();
    keep_best();
  }

  const Candidate& best() const { return best_; }
  const Cost& best_cost() const { return best_cost_; }

 private:
  void step() {
    candidate_ = current_;
    // What finds nothing to change counts, so that the search ends where there is nothing to find.
    meter_.spend();
    if (!moves_.change(candidate_, cost_.seconds, random_)) return;
    // Metropolis, the other way round: with the random number first, a candidate need not be simulated to its end.
    Cost limit = cost_;
    limit.seconds -= temperature_ * std::log(1 - random_.uniform());
    const Cost cost = evaluator_.evaluate(candidate_, limit);
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
    if (cost_.unfinished == 0) meter_.found(cost_.seconds);
  }

  Evaluator evaluator_;
  Moves moves_;
  BudgetMeter& meter_;
  Random random_;
  Candidate current_, candidate_, best_;
  Cost cost_, best_cost_ = Cost::infinite();
  double cooled_;  // at the start
  double temperature_ = 0;
};

// The threads' searches.
class Searches {
 public:
  Searches(const PlanRequest& request, const std::vector<Candidate>& starts, const BudgetMeter& spent)
      : silent_(request) {
    silent_.progress = {};
    for (int i = 0; i < request.budget.threads; ++i) {
      meters_.push_back(std::make_unique<BudgetMeter>(i == 0 ? request : silent_, spent, request.budget.threads));
      const Candidate& start = starts[static_cast<size_t>(i) % starts.size()];
      searches_.push_back(std::make_unique<Annealing>(request, start, *meters_.back(), static_cast<uint64_t>(i)));
    }
  }

  const Annealing& run() {
    for (int meeting = 1; meeting <= kMeetings; ++meeting) {
      const double share = static_cast<double>(meeting) / kMeetings;
      run_all(share);
      if (meeting < kMeetings) meet();
    }
    return best();
  }

 private:
  // What a thread throws is thrown here once all have ended.
  void run_all(double share) {
    std::vector<std::exception_ptr> thrown(searches_.size());
    const auto attempt = [&](size_t i) {
      try {
        searches_[i]->run(share);
      } catch (...) {
        thrown[i] = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> threads;
      for (size_t i = 1; i < searches_.size(); ++i) threads.emplace_back(attempt, i);
      attempt(0);
    }
    for (const std::exception_ptr& exception : thrown)
      if (exception) std::rethrow_exception(exception);
  }

  const Annealing& best() const {
    return **std::ranges::min_element(searches_, {}, [](const auto& search) { return search->best_cost(); });
  }
  // Those that are behind go on from the best.
  void meet() {
    const Annealing& first = best();
    for (const auto& search : searches_)
      if (search.get() != &first) search->begin_at(first.best());
  }

  PlanRequest silent_;  // tells no progress
  std::vector<std::unique_ptr<BudgetMeter>> meters_;
  std::vector<std::unique_ptr<Annealing>> searches_;
};

class JointPlanner : public Planner {
 public:
  PlanResult plan(const PlanRequest& request) const override {
    if (auto infeasible = check_request(request)) return *std::move(infeasible);
    const int length = path_length(request);
    BudgetMeter meter(request);
    const std::vector<Candidate> starts = first_candidates(request, length, meter);
    if (starts.empty()) return no_paths(request, length);
    Searches searches(request, starts, meter);
    const Candidate& best = searches.run().best();
    PlanRequest placed = request;
    placed.stages = best.stages;
    Plan plan = begin_plan(placed, "joint", request.rules, length);
    take_paths(best, plan);
    PlanResult result = finish_plan(request, std::move(plan));
    const bool may_resize = request.stages.empty() && request.nodes_per_stage.empty();
    if (result.plan && may_resize) leave_out_idle(request, *result.plan);
    return result;
  }

  bool improves_plans() const override { return true; }

 private:
  // One for each thread, as far as there are so many placements. Empty: no paths found.
  static std::vector<Candidate> first_candidates(const PlanRequest& request, int length, BudgetMeter& meter) {
    if (request.start) return {candidate_of(*request.start)};
    std::vector<Candidate> candidates;
    const auto placements = first_stages(request, meter);
    meter.allow(2 * kPlacementShare);
    for (const std::vector<std::vector<int>>& stages : placements) {
      auto candidate = first_candidate(request, stages, length, meter);
      if (!candidate) return {};
      candidates.push_back(*std::move(candidate));
    }
    return candidates;
  }

  // DT-FM's, or random ones where it found none that fits.
  static std::vector<std::vector<std::vector<int>>> first_stages(const PlanRequest& request, BudgetMeter& meter) {
    meter.allow(kPlacementShare);
    std::vector<std::vector<std::vector<int>>> stages;
    for (Placement& placement : place_stages(request, meter).best_first) {
      stages.push_back(std::move(placement.stages));
      if (std::ssize(stages) == request.budget.threads) break;
    }
    Random random(request.seed, {1});
    if (stages.empty()) stages.push_back(random_stages(request, random));
    return stages;
  }

  // Balanced paths, by load and then by what is shortest as things are.
  static std::optional<Candidate> first_candidate(const PlanRequest& request,
                                                  const std::vector<std::vector<int>>& stages, int length,
                                                  BudgetMeter& meter) {
    PlanRequest placed = request;
    placed.stages = stages;
    Plan plan = begin_plan(placed, "joint", request.rules, length);
    Random random(request.seed, {3});
    const auto paths = draw_stages(placed, plan.microbatches.size(), length, random);
    if (!paths) return std::nullopt;
    place_by_load(placed, *paths, plan);
    Candidate candidate = candidate_of(plan);
    if (request.rules.equal_data) equalize_data(candidate, random);
    Router router(request);
    router.measure(candidate, Evaluator(request).evaluate(candidate).seconds, 1);
    for (int m = 0; m < candidate.microbatches() && meter.left(); ++m) router.reroute(candidate, candidate.path(m));
    return candidate;
  }
};

}  // namespace

std::unique_ptr<Planner> make_joint_planner() { return std::make_unique<JointPlanner>(); }

}  // namespace skippipe
