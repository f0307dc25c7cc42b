// What is decided for the whole process, once, in main.
#pragma once

#include <cstdint>
#include <string>

namespace skippipe {

// First in main, before any thread: signals are ours and not a library's, children's exit codes are kept, and the soft
// limit of open files is as high as the hard one lets it be. What a signal then does to a verb, stop_signals.h says.
void settle_process();

// Next, so that signals that were ignored still are: threads of OpenMP that wait for each other are to sleep. Those
// that spin, its default for some milliseconds, take the cores from whoever they wait for as soon as anything else runs
// on the machine. OpenMP reads its settings before main, so where the user has made none (OMP_WAIT_POLICY,
// GOMP_SPINCOUNT), the program starts itself once more, as the same process, with OMP_WAIT_POLICY=passive. Returns
// where that was done, or can't be; the processes that this one starts have the setting in any case.
void let_openmp_sleep(char** argv);

// How many files this process may have open.
uint64_t open_file_limit();

// Files that a node of so many has open at most: its connections to each of the others, and what the transport, the
// checkpoints and the runtime libraries take (measured with 4, 8 and 24 nodes on CPUs; CUDA's and NCCL's are not in
// it).
uint64_t open_files_of_node(int nodes);
// ... and the process that starts and watches so many of them.
uint64_t open_files_of_launch(int nodes);

// Throws RunError where the process may not have so many. `who` needs them: "a node of 24".
void require_open_files(uint64_t needed, const std::string& who);

}  // namespace skippipe
