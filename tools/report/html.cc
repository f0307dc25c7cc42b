#include "tools/report/html.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/markup.h"
#include "tools/report/style.h"

namespace skippipe {
namespace {

std::string row_html(const std::vector<std::string>& cells, const char* tag, bool marked) {
  std::string html = marked ? "<tr class=\"marked\">" : "<tr>";
  for (const std::string& cell : cells) html += fmt::format("<{0}>{1}</{0}>", tag, escape_markup(cell));
  return html + "</tr>\n";
}

}  // namespace

std::string table_html(const Table& table) {
  std::string html = fmt::format("<div class=\"scroll\"><table class=\"{}\">\n<thead>\n{}</thead>\n<tbody>\n",
                                 table.css_class, row_html(table.header, "th", false));
  for (size_t i = 0; i < table.rows.size(); ++i)
    html += row_html(table.rows[i], "td", std::ranges::find(table.marked, i) != table.marked.end());
  return html + "</tbody>\n</table></div>\n";
}

std::string paragraph(const std::string& text) { return fmt::format("<p>{}</p>\n", escape_markup(text)); }

std::string heading(const std::string& text) { return fmt::format("<h3>{}</h3>\n", escape_markup(text)); }

std::string section(const std::string& id, const std::string& title, const std::string& html) {
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n{}</section>\n", id, escape_markup(title), html);
}

std::string legend(const std::vector<std::string>& names, const std::string& css_class_prefix) {
  std::string html = "<ul class=\"legend\">";
  for (size_t i = 0; i < names.size(); ++i)
    html += fmt::format("<li><span class=\"{}{}\"></span>{}</li>", css_class_prefix, i % kColourCount,
                        escape_markup(names[i]));
  return html + "</ul>\n";
}

std::string page(const std::string& title, const std::string& html) {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n<title>{0}</title>\n<style>\n{1}</style>\n</head>\n"
      "<body>\n<h1>{0}</h1>\n{2}</body>\n</html>\n",
      escape_markup(title), style_sheet(), html);
}

}  // namespace skippipe
