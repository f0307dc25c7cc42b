// Checks on pictures.
#pragma once

#include <string>

namespace skippipe::test {

size_t count_of(const std::string& text, const std::string& part);

// Empty if tags nest, attributes are quoted and text is escaped; else what is wrong where. Knows the XML that our
// pictures use: elements, text, CDATA sections.
std::string xml_fault(const std::string& text);

}  // namespace skippipe::test
