#include "schedule/pictures/svg.h"

#include <array>
#include <string_view>

#include "base/error.h"
#include "base/markup.h"

namespace skippipe {
namespace {

struct Hue {
  const char* light;
  const char* dark;
};
constexpr std::array<Hue, kHueCount> kHues = {{{"#0072b2", "#4aa8e0"},
                                               {"#d55e00", "#f08a3c"},
                                               {"#009e73", "#2cc79a"},
                                               {"#b0569a", "#e08cc4"},
                                               {"#e69f00", "#f2b632"},
                                               {"#56b4e9", "#9cd2f4"},
                                               {"#7a6000", "#d4c95c"},
                                               {"#6b7078", "#aab2ba"},
                                               {"#7b4fd0", "#ab90f4"},
                                               {"#b3202a", "#f0686c"}}};

// `svg:root` matches only where the picture is the whole document, so that a page around it keeps its own colours.
constexpr char kDark[] = R"(svg:root .paper { fill: #14171b; }
svg:root .ink { fill: #e4e8ec; }
svg:root .muted { fill: #9aa4ae; }
svg:root .stripe { fill: #1d2126; }
svg:root .grid { stroke: #363c43; }
svg:root .bar { stroke: #14171b; }
svg:root .critical { stroke: #ff6b6b; }
)";

constexpr char kHover[] = R"(svg:root .route:hover .line { stroke-opacity: 1; stroke-width: 5; }
)";

// Only for a picture that is opened as a document: browsers run no scripts of images.
constexpr char kZoom[] = R"(<script><![CDATA[
(() => {
  const svg = document.documentElement;
  if (svg.localName !== 'svg') return;
  const whole = svg.getAttribute('viewBox').split(' ').map(Number);
  let [x, y, w, h] = whole;
  const show = () => svg.setAttribute('viewBox', [x, y, w, h].join(' '));
  const at = (e) => new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
  svg.addEventListener('wheel', (e) => {
    e.preventDefault();
    const p = at(e);
    const factor = Math.min(whole[2] / w, Math.max(whole[2] / 200 / w, Math.exp(e.deltaY / 500)));
    x = p.x - (p.x - x) * factor;
    y = p.y - (p.y - y) * factor;
    w *= factor;
    h *= factor;
    if (w >= whole[2]) [x, y, w, h] = whole;
    show();
  }, {passive: false});
  let from = null;
  svg.addEventListener('mousedown', (e) => { from = at(e); e.preventDefault(); });
  svg.addEventListener('mousemove', (e) => {
    if (!from || w >= whole[2]) return;
    const p = at(e);
    x += from.x - p.x;
    y += from.y - p.y;
    show();
  });
  for (const end of ['mouseup', 'mouseleave']) svg.addEventListener(end, () => { from = null; });
  svg.addEventListener('dblclick', () => { [x, y, w, h] = whole; show(); });
})();
]]></script>
)";

}  // namespace

SvgWriter::SvgWriter(double width, double height, const std::string& title) {
  add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n"
      "<rect class=\"paper\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
      width, height);
  if (!title.empty())
    add("<text class=\"ink\" x=\"12\" y=\"{:.0f}\" font-size=\"16\" font-weight=\"bold\" fill=\"#111111\">{}</text>\n",
        kSvgTitleHeight, escape_markup(title));
}

std::string SvgWriter::finish() {
  svg_ += "</svg>\n";
  return std::move(svg_);
}

double text_width(const std::string& text, double font_size) {
  size_t characters = 0;
  for (const char c : text)
    if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) ++characters;
  return 0.54 * font_size * static_cast<double>(characters);
}

const char* hue(size_t series) { return kHues[series % kHueCount].light; }

std::string standalone_svg(std::string svg) {
  constexpr std::string_view kEnd = "</svg>\n";
  SKP_CHECK(svg.ends_with(kEnd), "not a finished SVG");
  std::string dark = kDark;
  for (size_t i = 0; i < kHueCount; ++i)
    dark +=
        fmt::format("svg:root .hue{0} {{ fill: {1}; }} svg:root .line-hue{0} {{ stroke: {1}; }}\n", i, kHues[i].dark);
  svg.resize(svg.size() - kEnd.size());
  svg += fmt::format("<style>\n{}@media screen and (prefers-color-scheme: dark) {{\n{}}}\n</style>\n{}{}", kHover, dark,
                     kZoom, kEnd);
  return svg;
}

}  // namespace skippipe
