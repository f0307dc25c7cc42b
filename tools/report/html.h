// Pieces of an HTML page. What comes in as text is escaped here; what comes in as html is not.
#pragma once

#include <string>
#include <vector>

namespace skippipe {

struct Table {
  std::vector<std::string> header;  // texts; the first column is a name, the others are figures
  std::vector<std::vector<std::string>> rows;
  std::vector<size_t> marked;  // rows that stand out
  std::string css_class = "figures";
};

std::string table_html(const Table& table);
std::string paragraph(const std::string& text);
std::string heading(const std::string& text);  // within a section
std::string section(const std::string& id, const std::string& title, const std::string& html);
// A name for each colour of a chart or a bar: series 0, 1, ... or category 0, 1, ...
std::string legend(const std::vector<std::string>& names, const std::string& css_class_prefix);
// The whole page with its style sheet.
std::string page(const std::string& title, const std::string& html);

}  // namespace skippipe
