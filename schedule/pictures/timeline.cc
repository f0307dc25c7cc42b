#include "schedule/pictures/timeline.h"

#include <algorithm>
#include <vector>

#include "base/markup.h"
#include "schedule/pictures/axis.h"
#include "schedule/pictures/svg.h"

namespace skippipe {
namespace {

using Work = SimulationRecord::Work;
using Transfer = SimulationRecord::Transfer;

constexpr double kLeft = 190;  // of the time axis, in pixels; names stand before it
constexpr double kRight = 30;
constexpr double kLegendHeight = 58;  // with the labels of the axis
constexpr double kRowHeight = 38;
constexpr double kTaskHeight = 18;
constexpr double kLaneHeight = 3;  // of transfers: forward, backward and reduction below each other
constexpr double kLanePitch = 4;
constexpr double kMinLabelWidth = 5;  // for those who zoom in; from kWideLabelWidth legible at once
constexpr double kWideLabelWidth = 13;
constexpr double kMinBarWidth = 0.8;
constexpr double kMinOutlinedWidth = 3;
constexpr const char* kCriticalStroke = "#d1001f";

// Colours that remain apart for the colour-blind (Okabe and Ito 2008), transfers in a lighter tone of their tasks.
struct Style {
  const char* name;
  const char* fill;
  const char* text;
};

Style style_of(Work::Kind kind) {
  switch (kind) {
    case Work::Kind::kForward:
      return {"forward", "#0072b2", "#ffffff"};
    case Work::Kind::kLoss:
      return {"loss", "#cc79a7", "#000000"};
    case Work::Kind::kBackward:
      return {"backward", "#e69f00", "#000000"};
    case Work::Kind::kNorm:
      return {"norm", "#8c8c8c", "#000000"};
    case Work::Kind::kReduce:
      return {"reduce", "#8fd0bb", "#000000"};
    case Work::Kind::kStep:
      return {"step", "#009e73", "#ffffff"};
  }
  return {};
}

Style style_of(Transfer::Kind kind) {
  switch (kind) {
    case Transfer::Kind::kForward:
      return {"forward transfer", "#56a5d6", ""};
    case Transfer::Kind::kBackward:
      return {"backward transfer", "#d98200", ""};
    case Transfer::Kind::kReduction:
      return {"reduction transfer", "#4bb894", ""};
    case Transfer::Kind::kNorm:  // not drawn
      break;
  }
  return {};
}

class Timeline {
 public:
  Timeline(const Plan& plan, const SimulationRecord& record, const TimelineOptions& options)
      : plan_(plan),
        record_(record),
        options_(options),
        top_(kLegendHeight + (options.title.empty() ? 0 : kSvgTitleHeight)),
        rows_(static_cast<int>(used_nodes(plan).size())),
        end_s_(options.end_s),
        svg_(kLeft + options.plot_width + kRight, bottom() + 34, options.title) {
    for (const Work& work : record.work) end_s_ = std::max(end_s_, work.end_s);
    for (const Transfer& transfer : record.transfers) end_s_ = std::max(end_s_, transfer.end_s);
    if (end_s_ <= 0) end_s_ = 1;
    row_of_.assign(plan.node_names.size(), -1);
    int row = 0;
    for (const std::vector<int>& stage : plan.stages)
      for (const int node : stage) row_of_[static_cast<size_t>(node)] = row++;
  }

  std::string render() {
    add_legend();
    add_rows();
    add_axis();
    for (const Transfer& transfer : record_.transfers) add_transfer(transfer);
    for (const Work& work : record_.work) add_work(work);
    for (const CriticalPiece& piece : options_.critical) add_critical(piece);
    return svg_.finish();
  }

 private:
  double x(double seconds) const { return kLeft + seconds / end_s_ * options_.plot_width; }
  double y(int node) const { return top_ + row_of_[static_cast<size_t>(node)] * kRowHeight; }
  double bottom() const { return top_ + rows_ * kRowHeight; }
  std::string name(int node) const { return escape_markup(plan_.node_names[static_cast<size_t>(node)]); }

  void add_legend() {
    double at = 12;
    const auto entry = [&](const Style& style, double height) {
      svg_.add("<rect x=\"{:.0f}\" y=\"{:.1f}\" width=\"22\" height=\"{:.0f}\" fill=\"{}\"/>\n", at,
               top_ - 34 - height / 2, height, style.fill);
      svg_.add("<text class=\"ink\" x=\"{:.0f}\" y=\"{:.0f}\" fill=\"#333333\">{}</text>\n", at + 27, top_ - 30,
               style.name);
      at += 38 + 6.3 * static_cast<double>(std::string_view(style.name).size());
    };
    const auto occurs = [&](Work::Kind kind) {
      return kind != Work::Kind::kNorm || std::ranges::find(record_.work, kind, &Work::kind) != record_.work.end();
    };
    for (const Work::Kind kind : {Work::Kind::kForward, Work::Kind::kLoss, Work::Kind::kBackward, Work::Kind::kReduce,
                                  Work::Kind::kNorm, Work::Kind::kStep})
      if (occurs(kind)) entry(style_of(kind), 12);
    for (const Transfer::Kind kind : {Transfer::Kind::kForward, Transfer::Kind::kBackward, Transfer::Kind::kReduction})
      entry(style_of(kind), kLaneHeight);
    if (!options_.critical.empty()) {
      svg_.add("<path class=\"critical\" d=\"M{:.0f} {:.0f}h22\" stroke=\"{}\" stroke-width=\"2.5\"/>\n", at, top_ - 34,
               kCriticalStroke);
      svg_.add("<text class=\"ink\" x=\"{:.0f}\" y=\"{:.0f}\" fill=\"#333333\">critical path</text>\n", at + 27,
               top_ - 30);
      at += 110;
    }
    svg_.add("<text class=\"muted\" x=\"{:.0f}\" y=\"{:.0f}\" fill=\"#666666\">numbers: microbatches</text>\n", at,
             top_ - 30);
  }

  void add_rows() {
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
      const auto count = static_cast<double>(plan_.stages[stage].size());
      const double top = y(plan_.stages[stage].front());
      if (stage % 2 == 0)
        svg_.add("<rect class=\"stripe\" x=\"0\" y=\"{:.0f}\" width=\"100%\" height=\"{:.0f}\" fill=\"#f2f4f7\"/>\n",
                 top, count * kRowHeight);
      svg_.add("<text class=\"ink\" x=\"12\" y=\"{:.0f}\" font-weight=\"bold\" fill=\"#333333\">stage {}</text>\n",
               top + 16, stage);
      for (const int node : plan_.stages[stage]) {
        const std::string label = shorten_text(plan_.node_names[static_cast<size_t>(node)], 16);
        svg_.add("<text class=\"ink\" x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"end\" fill=\"#333333\">{}</text>\n",
                 kLeft - 10, y(node) + 16, escape_markup(label));
      }
    }
  }

  void add_axis() {
    const auto [distance, decimals] = ticks_for(end_s_, 10);
    for (int i = 0; i * distance <= end_s_ * (1 + 1e-9); ++i) {
      const double at = x(i * distance);
      svg_.add(
          "<line class=\"grid\" x1=\"{0:.1f}\" y1=\"{1:.0f}\" x2=\"{0:.1f}\" y2=\"{2:.0f}\" stroke=\"#c8ccd2\" "
          "stroke-width=\"0.6\"/>\n",
          at, top_ - 4, bottom());
      for (const double baseline : {top_ - 8, bottom() + 18})
        svg_.add(
            "<text class=\"muted\" x=\"{:.1f}\" y=\"{:.0f}\" text-anchor=\"middle\" fill=\"#555555\">{:.{}f} "
            "s</text>\n",
            at, baseline, i * distance, decimals);
    }
  }

  void add_bar(double start_s, double end_s, double top, double height, const char* fill, const std::string& hover) {
    const double width = std::max(kMinBarWidth, x(end_s) - x(start_s));
    // An outline keeps neighbours apart, but would hide what is thin.
    const char* outline = width > kMinOutlinedWidth ? " class=\"bar\" stroke=\"#ffffff\" stroke-width=\"0.4\"" : "";
    svg_.add(
        "<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.0f}\" fill=\"{}\"{}><title>{}</title></rect>\n",
        x(start_s), top, width, height, fill, outline, hover);
  }

  void add_work(const Work& work) {
    const Style style = style_of(work.kind);
    std::string of = work.microbatch < 0 ? "" : fmt::format(" of microbatch {}", work.microbatch);
    if (work.slot >= 0) of += fmt::format(" in slot {}", work.slot);
    const double top = y(work.node) + 3;
    add_bar(work.start_s, work.end_s, top, kTaskHeight, style.fill,
            fmt::format("{}: {}{}, {:.4g} to {:.4g} s", name(work.node), style.name, of, work.start_s, work.end_s));
    const double width = x(work.end_s) - x(work.start_s);
    if (work.microbatch < 0 || width < kMinLabelWidth) return;
    const double font_size = 10 * std::min(1.0, width / kWideLabelWidth);
    svg_.add(
        "<text x=\"{:.2f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"{:.3g}\" fill=\"{}\" "
        "pointer-events=\"none\">{}</text>\n",
        (x(work.start_s) + x(work.end_s)) / 2, top + 9.5 + font_size * 0.35, font_size, style.text, work.microbatch);
  }

  void add_transfer(const Transfer& transfer) {
    const Style style = style_of(transfer.kind);
    const std::string of = transfer.microbatch < 0 ? "" : fmt::format(" of microbatch {}", transfer.microbatch);
    const double top = y(transfer.from) + 4 + kTaskHeight + static_cast<int>(transfer.kind) * kLanePitch;
    add_bar(transfer.start_s, transfer.end_s, top, kLaneHeight, style.fill,
            fmt::format("{} to {}: {}{}, {:.4g} to {:.4g} s", name(transfer.from), name(transfer.to), style.name, of,
                        transfer.start_s, transfer.end_s));
  }

  // Along the top of the bars where a node works or waits, across to another row where a message travels.
  void add_critical(const CriticalPiece& piece) {
    using Kind = CriticalPiece::Kind;
    const bool travels =
        piece.kind == Kind::kActivations || piece.kind == Kind::kReduction || piece.kind == Kind::kNorm;
    const bool waits = piece.kind == Kind::kLink || piece.kind == Kind::kQueue || piece.kind == Kind::kSlot ||
                       piece.kind == Kind::kTurn;
    svg_.add(
        "<g><title>critical: {}, {:.4g} to {:.4g} s</title><path class=\"critical\" d=\"M{:.2f} {:.1f}L{:.2f} {:.1f}\" "
        "stroke=\"{}\" stroke-width=\"2\" stroke-linecap=\"round\"{}/></g>\n",
        escape_markup(describe(piece, plan_)), piece.start_s, piece.end_s, x(piece.start_s), y(piece.node) + 2,
        x(piece.end_s), y(travels ? piece.peer : piece.node) + 2, kCriticalStroke,
        waits ? " stroke-dasharray=\"2 4\"" : "");
  }

  const Plan& plan_;
  const SimulationRecord& record_;
  const TimelineOptions& options_;
  const double top_;  // of the rows
  const int rows_;
  std::vector<int> row_of_;
  double end_s_;
  SvgWriter svg_;
};

}  // namespace

std::string render_timeline(const Plan& plan, const SimulationRecord& record, const TimelineOptions& options) {
  return Timeline(plan, record, options).render();
}

}  // namespace skippipe
