// What the rules of plans are called wherever users read of them. In the numbering of arXiv:2502.19913: C1 to C4, T1.
#pragma once

#include <string>

namespace skippipe {

inline constexpr const char* kPathStartRule = "the start of a path";         // C1: at a data node
inline constexpr const char* kStageNodesRule = "the nodes of a stage";       // C1: one or more
inline constexpr const char* kPathStagesRule = "the stages of a path";       // C2: how many, none twice
inline constexpr const char* kPathOrderRule = "a path's order";              // C3: swaps and jumps
inline constexpr const char* kExposureRule = "the exposure of stages";       // C4: in some path; equal, unless told
inline constexpr const char* kDataRule = "equal data";                       // C5, ours: of data nodes, where asked for
inline constexpr const char* kSlotsRule = "slots and memory";                // T1
inline constexpr const char* kReplicaDelayRule = "delays between replicas";  // PlanRequest::max_replica_delay_s
// Of what a plan is, beside the paper's.
inline constexpr const char* kShapeRule = "a plan's shape";
inline constexpr const char* kNetworkRule = "a plan's network";
inline constexpr const char* kRanksRule = "ranks";
inline constexpr const char* kPrioritiesRule = "priorities";
inline constexpr const char* kDeadlockRule = "deadlocks";

inline std::string unmet(const std::string& rule) { return "the rule on " + rule + " can't be met"; }
inline std::string broken(const std::string& rule) { return "breaks the rule on " + rule; }

}  // namespace skippipe
