#include "engine/run/emulated_links.h"

#include <utility>
#include <vector>

namespace skippipe {

void emulate_links(std::optional<ShapedTransport>& shaped, Transport& inner, const Network& network, int node) {
  std::vector<LinkShape> links;
  for (int to = 0; to < network.size(); ++to) {
    const Link& link = network.link(node, to);
    links.push_back(to == node ? LinkShape{} : LinkShape{link.latency_s + link.overhead_s, link.bandwidth_bytes_per_s});
  }
  shaped.emplace(inner, std::move(links), network.nodes[static_cast<size_t>(node)].uplink_bytes_per_s);
}

}  // namespace skippipe
