#include "engine/emulated_links.h"

namespace skippipe {

std::vector<LinkShape> outgoing_links(const Network& network, int node) {
  std::vector<LinkShape> links;
  for (int to = 0; to < network.size(); ++to) {
    const Link& link = network.link(node, to);
    links.push_back(to == node ? LinkShape{} : LinkShape{link.latency_s + link.overhead_s, link.bandwidth_bytes_per_s});
  }
  return links;
}

}  // namespace skippipe
