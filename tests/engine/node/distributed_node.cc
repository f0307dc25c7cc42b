// One node of a distributed test in a process of its own: distributed_node SEED NODE FOLDER ADDRESSES LISTENING_FD.
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "base/error.h"
#include "base/log.h"
#include "comm/transport/ucx_transport.h"
#include "tests/engine/node/distributed_scenario.h"

int main(int argc, char** argv) {
  using namespace skippipe;
  try {
    SKP_CHECK(argc == 6, "usage: distributed_node SEED NODE FOLDER ADDRESSES LISTENING_FD");
    const uint64_t seed = std::stoull(argv[1]);
    const int node = std::stoi(argv[2]);
    const std::filesystem::path folder = argv[3];
    const TrainingRun run = testing::make_scenario(seed, folder);
    UcxOptions options;
    options.run_id = run.file.run_id;
    options.node = node;
    std::istringstream addresses(argv[4]);
    for (std::string address; std::getline(addresses, address, ',');)
      options.addresses.push_back(parse_node_address(address));
    options.listener = FileDescriptor(std::stoi(argv[5]));
    options.logger = make_logger(argv[2]);
    std::unique_ptr<Transport> transport;
    if (const Status status = connect_ucx(std::move(options), transport); !status.ok())
      throw RunError(status.message());
    testing::save_record(testing::run_node(run, node, *transport), folder / fmt::format("record-{}", node));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
