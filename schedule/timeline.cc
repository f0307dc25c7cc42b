#include "schedule/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <vector>

namespace skippipe {
namespace {

using Work = SimulationRecord::Work;
using Transfer = SimulationRecord::Transfer;

constexpr double kLeft = 190;  // of the time axis, in pixels; names stand before it
constexpr double kPlotWidth = 1280;
constexpr double kRight = 30;
constexpr double kTop = 84;
constexpr double kRowHeight = 38;
constexpr double kTaskHeight = 18;
constexpr double kLaneHeight = 3;  // of transfers: forward, backward and reduction below each other
constexpr double kLanePitch = 4;
constexpr double kMinLabelWidth = 13;

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
  }
  return {};
}

std::string escape(const std::string& text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return result;
}

// 1, 2 or 5 times a power of ten, so that about ten ticks cover the axis.
double tick_distance(double end_s) {
  const double rough = end_s / 10;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough) return factor * power;
  return 10 * power;
}

class Timeline {
 public:
  Timeline(const Plan& plan, const SimulationRecord& record) : plan_(plan), record_(record) {
    for (const Work& work : record.work) end_s_ = std::max(end_s_, work.end_s);
    for (const Transfer& transfer : record.transfers) end_s_ = std::max(end_s_, transfer.end_s);
    if (end_s_ <= 0) end_s_ = 1;
    row_of_.assign(plan.node_names.size(), -1);
    for (const std::vector<int>& stage : plan.stages)
      for (const int node : stage) row_of_[static_cast<size_t>(node)] = rows_++;
  }

  std::string render(const std::string& title) {
    const double width = kLeft + kPlotWidth + kRight;
    const double height = bottom() + 34;
    add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
        "height=\"{1:.0f}\" "
        "font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">\n",
        width, height);
    add("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    add("<text x=\"12\" y=\"26\" font-size=\"16\" font-weight=\"bold\" fill=\"#111111\">{}</text>\n", escape(title));
    add_legend();
    add_rows();
    add_axis();
    for (const Transfer& transfer : record_.transfers) add_transfer(transfer);
    for (const Work& work : record_.work) add_work(work);
    add("</svg>\n");
    return std::move(svg_);
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(svg_), format, std::forward<Args>(args)...);
  }

  double x(double seconds) const { return kLeft + seconds / end_s_ * kPlotWidth; }
  double y(int node) const { return kTop + row_of_[static_cast<size_t>(node)] * kRowHeight; }
  double bottom() const { return kTop + rows_ * kRowHeight; }
  std::string name(int node) const { return escape(plan_.node_names[static_cast<size_t>(node)]); }

  void add_legend() {
    double at = 12;
    const auto entry = [&](const Style& style, double height) {
      add("<rect x=\"{:.0f}\" y=\"{:.1f}\" width=\"22\" height=\"{:.0f}\" fill=\"{}\"/>\n", at, 50 - height / 2, height,
          style.fill);
      add("<text x=\"{:.0f}\" y=\"54\" fill=\"#333333\">{}</text>\n", at + 27, style.name);
      at += 60 + 6.3 * static_cast<double>(std::string_view(style.name).size());
    };
    for (const Work::Kind kind :
         {Work::Kind::kForward, Work::Kind::kLoss, Work::Kind::kBackward, Work::Kind::kReduce, Work::Kind::kStep})
      entry(style_of(kind), 12);
    for (const Transfer::Kind kind : {Transfer::Kind::kForward, Transfer::Kind::kBackward, Transfer::Kind::kReduction})
      entry(style_of(kind), kLaneHeight);
    add("<text x=\"{:.0f}\" y=\"54\" fill=\"#666666\">numbers: microbatches</text>\n", at);
  }

  void add_rows() {
    for (size_t stage = 0; stage < plan_.stages.size(); ++stage) {
      const auto count = static_cast<double>(plan_.stages[stage].size());
      const double top = y(plan_.stages[stage].front());
      if (stage % 2 == 0)
        add("<rect x=\"0\" y=\"{:.0f}\" width=\"100%\" height=\"{:.0f}\" fill=\"#f2f4f7\"/>\n", top,
            count * kRowHeight);
      add("<text x=\"12\" y=\"{:.0f}\" font-weight=\"bold\" fill=\"#333333\">stage {}</text>\n", top + 16, stage);
      for (const int node : plan_.stages[stage]) {
        std::string label = plan_.node_names[static_cast<size_t>(node)];
        if (label.size() > 16) label = label.substr(0, 15) + "…";
        add("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"end\" fill=\"#333333\">{}</text>\n", kLeft - 10,
            y(node) + 16, escape(label));
      }
    }
  }

  void add_axis() {
    const double distance = tick_distance(end_s_);
    const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(distance))));
    for (int i = 0; i * distance <= end_s_ * (1 + 1e-9); ++i) {
      const double at = x(i * distance);
      add("<line x1=\"{0:.1f}\" y1=\"{1:.0f}\" x2=\"{0:.1f}\" y2=\"{2:.0f}\" stroke=\"#c8ccd2\" "
          "stroke-width=\"0.6\"/>\n",
          at, kTop - 4, bottom());
      for (const double baseline : {kTop - 8, bottom() + 18})
        add("<text x=\"{:.1f}\" y=\"{:.0f}\" text-anchor=\"middle\" fill=\"#555555\">{:.{}f} s</text>\n", at, baseline,
            i * distance, decimals);
    }
  }

  void add_bar(double start_s, double end_s, double top, double height, const char* fill, const std::string& hover) {
    add("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.0f}\" fill=\"{}\" stroke=\"#ffffff\" "
        "stroke-width=\"0.4\"><title>{}</title></rect>\n",
        x(start_s), top, std::max(0.5, x(end_s) - x(start_s)), height, fill, hover);
  }

  void add_work(const Work& work) {
    const Style style = style_of(work.kind);
    const std::string of =
        work.microbatch < 0 ? "" : fmt::format(" of microbatch {} in slot {}", work.microbatch, work.slot);
    const double top = y(work.node) + 3;
    add_bar(work.start_s, work.end_s, top, kTaskHeight, style.fill,
            fmt::format("{}: {}{}, {:.4g} to {:.4g} s", name(work.node), style.name, of, work.start_s, work.end_s));
    if (work.microbatch < 0 || x(work.end_s) - x(work.start_s) < kMinLabelWidth) return;
    add("<text x=\"{:.2f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"10\" fill=\"{}\" "
        "pointer-events=\"none\">{}</text>\n",
        (x(work.start_s) + x(work.end_s)) / 2, top + 13, style.text, work.microbatch);
  }

  void add_transfer(const Transfer& transfer) {
    const Style style = style_of(transfer.kind);
    const std::string of = transfer.microbatch < 0 ? "" : fmt::format(" of microbatch {}", transfer.microbatch);
    const double top = y(transfer.from) + 4 + kTaskHeight + static_cast<int>(transfer.kind) * kLanePitch;
    add_bar(transfer.start_s, transfer.end_s, top, kLaneHeight, style.fill,
            fmt::format("{} to {}: {}{}, {:.4g} to {:.4g} s", name(transfer.from), name(transfer.to), style.name, of,
                        transfer.start_s, transfer.end_s));
  }

  const Plan& plan_;
  const SimulationRecord& record_;
  std::string svg_;
  std::vector<int> row_of_;
  int rows_ = 0;
  double end_s_ = 0;
};

}  // namespace

std::string render_timeline(const Plan& plan, const SimulationRecord& record, const std::string& title) {
  return Timeline(plan, record).render(title);
}

}  // namespace skippipe
