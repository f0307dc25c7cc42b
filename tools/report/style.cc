#include "tools/report/style.h"

#include <fmt/format.h>

namespace skippipe {
namespace {

// Colours that remain apart for the colour-blind (Okabe and Ito 2008), a little lighter on dark ground.
constexpr char kLight[] = R"(
  --paper: #ffffff; --ink: #1b1f24; --muted: #57606a; --line: #d0d7de; --panel: #f4f6f8; --mark: #fff3d6;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b0569a; --s4: #7a6000; --s5: #3a8fc4; --s6: #6b7078;
  --c0: #0072b2; --c1: #e69f00; --c2: #009e73; --c3: #cc79a7; --c4: #56b4e9; --c5: #b8bec5; --c6: #d55e00;
)";
constexpr char kDark[] = R"(
  --paper: #14171b; --ink: #e4e8ec; --muted: #9aa4ae; --line: #363c43; --panel: #1d2126; --mark: #3d3520;
  --s0: #4aa8e0; --s1: #f08a3c; --s2: #2cc79a; --s3: #e08cc4; --s4: #d4b93c; --s5: #8cc8ee; --s6: #aab2ba;
  --c0: #2f8fd0; --c1: #d99a1c; --c2: #12a37c; --c3: #c774a2; --c4: #4fa3d3; --c5: #59616a; --c6: #e0702a;
)";

constexpr char kRules[] = R"(
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1160px; padding: 24px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
h1, h2, h3, p, figcaption, .tile { overflow-wrap: anywhere; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 0 0 8px; border-bottom: 1px solid var(--line); padding-bottom: 4px; }
h3 { font-size: 15px; margin: 16px 0 6px; }
section { margin-top: 34px; }
p { margin: 6px 0; max-width: 90ch; color: var(--muted); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin: 8px 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; font-weight: 600; line-height: 1.25; }
.tile span { color: var(--muted); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 18px; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 14px; margin-bottom: 2px; }
.scroll { overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; }
.timeline svg { min-width: 860px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 8px 0; }
th, td { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.settings th, .settings td { text-align: left; overflow-wrap: anywhere; }
.settings td:first-child { white-space: nowrap; font-family: ui-monospace, monospace; font-size: 13px; }
.settings td { font-family: ui-monospace, monospace; font-size: 13px; }
.marked { background: var(--mark); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 4px 0 8px; padding: 0; font-size: 14px; }
.legend span { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px; vertical-align: -2px; }
svg text { fill: var(--ink); }
svg .muted { fill: var(--muted); }
svg .paper { fill: var(--paper); }
svg .stripe { fill: var(--panel); }
svg .grid { stroke: var(--line); }
svg .bar { stroke: var(--paper); }
svg .onbar { fill: #ffffff; }
svg .ondark { fill: #000000; }
svg .track { fill: var(--panel); }
svg .planned { stroke: var(--ink); stroke-width: 2; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .dashed { stroke-dasharray: 7 4; }
svg .dotted { stroke-dasharray: 1.5 4; stroke-linecap: round; }
)";

// Pictures with labels beside bars would shrink until nobody can read these: they are scrolled instead, as tables are.
// Charts fit, with larger labels.
constexpr char kNarrow[] = R"(
@media screen and (max-width: 760px) {
  body { padding: 12px; }
  h1 { font-size: 22px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
  .scroll svg { max-width: none; min-width: 860px; }
  .figures th, .figures td { white-space: nowrap; }
  .settings td { min-width: 16ch; }
  figure svg { font-size: 16px; }
}
)";

constexpr char kPaper[] = R"(
@page { size: A4; margin: 14mm; }
@page wide { size: A4 landscape; margin: 12mm; }
@media print {
  :root { color-scheme: light; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 12px; background: #ffffff; }
  section { margin-top: 20px; }
  h2, h3, figcaption, .legend { break-after: avoid; }
  figure, tr, .tile, .keep { break-inside: avoid; }
  .scroll { overflow: visible; }
  .charts { grid-template-columns: 1fr 1fr; }
  .tiles { grid-template-columns: repeat(4, 1fr); }
  section[id^="memory"], section[id^="time-"], #evaluation { break-inside: avoid; }
  .timeline { page: wide; }
  .timeline svg { min-width: 0; max-height: 165mm; }
  table { font-size: 11px; }
}
)";

std::string colour_classes() {
  std::string css;
  for (size_t i = 0; i < kColourCount; ++i)
    for (const char kind : {'s', 'c'})
      css += fmt::format(
          "svg .line.{0}{1} {{ stroke: var(--{0}{1}); }} svg .area.{0}{1} {{ fill: var(--{0}{1}); }} "
          ".legend .{0}{1} {{ background: var(--{0}{1}); }}\n",
          kind, i);
  return css;
}

}  // namespace

std::string style_sheet() {
  return fmt::format(
      ":root {{ color-scheme: light dark;{0}}}\n@media (prefers-color-scheme: dark) {{ :root {{{1}}} }}\n"
      "@media print {{ :root {{{0}}} }}\n{2}{3}{4}{5}",
      kLight, kDark, kRules, colour_classes(), kNarrow, kPaper);
}

}  // namespace skippipe
