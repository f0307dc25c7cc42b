// What the pictures share: an SVG under construction, colours, and what a picture needs that stands in no page.
#pragma once

#include <fmt/format.h>

#include <iterator>
#include <string>
#include <utility>

namespace skippipe {

// An SVG with its own background. What it draws with the classes below takes on the colours of a page whose style sheet
// sets fill or stroke for them: paper, ink, muted, stripe (fill), grid, bar, critical (stroke).
class SvgWriter {
 public:
  // Sizes in pixels. The title stands on top, in bold, if there is one.
  SvgWriter(double width, double height, const std::string& title);

  // Markup as it is: text must have passed through escape_markup.
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Args>(args)...);
  }
  // The finished picture; nothing may be added after it.
  std::string finish();

 private:
  std::string svg_;
};

inline constexpr double kSvgTitleHeight = 26;

// Roughly, in Helvetica of this size; of UTF-8.
double text_width(const std::string& text, double font_size);

// Colours that remain apart for the colour-blind (Okabe and Ito 2008, and more for those who need more of them), for
// lines and bars of series 0, 1, ...; repeats after kHueCount. The classes hue0, hue1, ... set the same as fill and
// line-hue0, ... as stroke, lighter on dark ground, in pictures that stand alone.
inline constexpr size_t kHueCount = 10;
const char* hue(size_t series);

// A picture that is a file of its own: dark where the reader's screen is, and in a browser the wheel zooms, dragging
// moves, and a double click shows the whole again.
std::string standalone_svg(std::string svg);

}  // namespace skippipe
