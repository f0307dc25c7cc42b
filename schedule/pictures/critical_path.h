// The critical path of a simulated iteration: what every second from its start to its last optimizer step was spent on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "schedule/machine/simulator.h"
#include "schedule/plan/plan.h"

namespace skippipe {

struct CriticalPiece {
  enum class Kind : uint8_t {
    kForward,  // of `microbatch` on `node`; likewise the next two
    kLoss,
    kBackward,
    kStep,
    kActivations,  // of `microbatch` on the wire from `node` to `peer`, forward or backward
    kReduction,    // gradients on the wire from `node` to `peer`
    kNorm,         // the gradient norm on the wire from `node` to `peer`
    kLink,   // what `node` has for `peer` waits for their link, behind a message of microbatch `behind` (-1: gradients)
    kQueue,  // `microbatch` could run on `node`, which runs `behind`
    kSlot,   // the input of `microbatch` waits for a slot on `node`, held by `behind`
    kTurn,   // a gradient pass of `microbatch` on `node` waits for that of `behind`, so that sums keep their order
  };
  Kind kind = Kind::kStep;
  int node = -1;
  int peer = -1;
  int microbatch = -1;  // -1 where none is concerned
  int behind = -1;
  double start_s = 0;
  double end_s = 0;

  double seconds() const { return end_s - start_s; }
};

// Of an iteration of a ranked run that ended, whatever its jitter; in order of time, each piece beginning where the one
// before ends, the first with the iteration on its node (at 0 in the run's first, else when the node had stepped) and
// the last ending with the iteration. It follows data back from the last step: a task to the message that it needs, and
// that to the task that sent it. What waits, waits in pieces of their own. A microbatch that begins on its data node
// has no message: from there it goes on with the one whose slot it took. Throws PlanError if the record holds no whole
// iteration of the plan.
std::vector<CriticalPiece> critical_path(const Plan& plan, const SimulationRecord& record, uint32_t iteration = 0);

// "forward of microbatch 3 on Iowa-2"
std::string describe(const CriticalPiece& piece, const Plan& plan);

}  // namespace skippipe
