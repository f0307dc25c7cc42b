// Byte strings, each with a number, found byte by byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace skippipe {

// Immutable.
class ByteTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kNowhere = ~uint32_t{0};
  static constexpr int32_t kNoValue = -1;

  // Of equal keys one stays. Values are not negative.
  explicit ByteTrie(std::vector<std::pair<std::string, int32_t>> entries);

  bool empty() const { return labels_.size() == 1; }
  // The node behind `node` along the byte, or kNowhere.
  uint32_t next(uint32_t node, char byte) const;
  // Of the key that ends at the node, or kNoValue.
  int32_t value(uint32_t node) const { return nodes_[node].value; }

  // The longest key that text begins with.
  struct Match {
    size_t bytes = 0;       // 0: none
    bool may_grow = false;  // all of text begins a longer key
  };
  Match longest(std::string_view text) const;

 private:
  struct Node {
    uint32_t children = 0;  // those of a node lie side by side, sorted by label, up to the next node's
    int32_t value = kNoValue;
  };
  std::vector<Node> nodes_;  // one more than there are
  std::string labels_;       // the byte that leads to a node
};

}  // namespace skippipe
