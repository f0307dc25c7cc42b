#include "tests/schedule/pictures/svg_checks.h"

#include <fmt/format.h>

#include <regex>
#include <vector>

namespace skippipe::test {
namespace {

// Of text and attributes: every & begins an entity.
bool is_escaped(const std::string& text) {
  static const std::regex kBare("&(?!(amp|lt|gt|quot|#39);)|[<>]");
  return !std::regex_search(text, kBare);
}

}  // namespace

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

std::string xml_fault(const std::string& text) {
  static const std::regex kTag(R"re(<(/?)([a-z]+)((?: [A-Za-z0-9:-]+="[^"<]*")*)(/?)>)re");
  const std::string cdata = "<![CDATA[";
  std::vector<std::string> open;
  size_t at = 0;
  while (at < text.size()) {
    if (text.compare(at, cdata.size(), cdata) == 0) {
      at = text.find("]]>", at);
      if (at == std::string::npos) return "a CDATA section has no end";
      at += 3;
      continue;
    }
    if (text[at] != '<') {
      const size_t end = std::min(text.find('<', at), text.size());
      if (!is_escaped(text.substr(at, end - at))) return "unescaped: " + text.substr(at, end - at);
      if (open.empty() && text.find_first_not_of(" \n", at) < end) return "text outside of the root";
      at = end;
      continue;
    }
    const std::string tag = text.substr(at, text.find('>', at) + 1 - at);
    std::smatch match;
    if (!std::regex_match(tag, match, kTag)) return "not a tag: " + tag;
    if (!is_escaped(match[3].str())) return "unescaped attribute: " + tag;
    if (match[1].length() > 0) {
      if (open.empty() || open.back() != match[2]) return fmt::format("</{}> does not fit", match[2].str());
      open.pop_back();
    } else if (match[4].length() == 0) {
      open.push_back(match[2]);
    }
    at += tag.size();
  }
  return open.empty() ? "" : fmt::format("<{}> is not closed", open.back());
}

}  // namespace skippipe::test
