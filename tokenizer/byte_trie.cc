#include "tokenizer/byte_trie.h"

#include <algorithm>

namespace skippipe {

ByteTrie::ByteTrie(std::vector<std::pair<std::string, int32_t>> entries) {
  std::ranges::sort(entries);
  struct Range {  // the entries below a node: they share its `depth` first bytes
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, entries.size(), 0}};
  labels_ = std::string(1, '\0');
  for (size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    nodes_.push_back({static_cast<uint32_t>(ranges.size()), kNoValue});
    for (; begin < end && entries[begin].first.size() == depth; ++begin) nodes_[node].value = entries[begin].second;
    while (begin < end) {
      const char label = entries[begin].first[depth];
      const size_t first = begin;
      while (begin < end && entries[begin].first[depth] == label) ++begin;
      ranges.push_back({first, begin, depth + 1});
      labels_.push_back(label);
    }
  }
  nodes_.push_back({static_cast<uint32_t>(ranges.size()), kNoValue});
}

uint32_t ByteTrie::next(uint32_t node, char byte) const {
  const auto begin = labels_.begin() + nodes_[node].children, end = labels_.begin() + nodes_[node + 1].children;
  constexpr int kFew = 8;
  const auto found =
      end - begin <= kFew ? std::find(begin, end, byte) : std::lower_bound(begin, end, byte, [](char a, char b) {
        return static_cast<uint8_t>(a) < static_cast<uint8_t>(b);
      });
  return found == end || *found != byte ? kNowhere : static_cast<uint32_t>(found - labels_.begin());
}

ByteTrie::Match ByteTrie::longest(std::string_view text) const {
  Match match;
  uint32_t node = kRoot;
  for (size_t i = 0; i < text.size(); ++i) {
    node = next(node, text[i]);
    if (node == kNowhere) return match;
    if (value(node) != kNoValue) match.bytes = i + 1;
  }
  match.may_grow = nodes_[node].children < nodes_[node + 1].children;
  return match;
}

}  // namespace skippipe
