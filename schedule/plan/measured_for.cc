#include "schedule/plan/measured_for.h"

#include <fmt/ranges.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace skippipe {
namespace {

using Number = std::pair<const char*, int64_t MeasuredFor::*>;

constexpr int64_t kMostOfAnything = int64_t{1} << 40;
constexpr const char* kModel = "model";
constexpr const char* kDtype = "dtype";
constexpr std::array kOfModel = {Number{"hidden_size", &MeasuredFor::hidden_size},
                                 Number{"intermediate_size", &MeasuredFor::intermediate_size},
                                 Number{"num_attention_heads", &MeasuredFor::num_attention_heads},
                                 Number{"num_key_value_heads", &MeasuredFor::num_key_value_heads},
                                 Number{"head_dim", &MeasuredFor::head_dim},
                                 Number{"vocab_size", &MeasuredFor::vocab_size}};
constexpr std::array kOfRun = {Number{"samples", &MeasuredFor::samples}, Number{"tokens", &MeasuredFor::tokens}};

void read_numbers(const JsonReader& json, const auto& numbers, std::vector<std::string> others, MeasuredFor& measured) {
  for (const auto& [name, _] : numbers) others.emplace_back(name);
  json.allow_only(others);
  for (const auto& [name, number] : numbers) measured.*number = json.at(name).as_int(1, kMostOfAnything);
}

}  // namespace

std::string describe_difference(const MeasuredFor& measured, const MeasuredFor& here) {
  std::vector<std::string> parts;
  const auto compare = [&](const char* name, const auto& was, const auto& is) {
    if (was != is) parts.push_back(fmt::format("{} {} (here {})", name, was, is));
  };
  for (const auto& [name, number] : kOfModel) compare(name, measured.*number, here.*number);
  for (const auto& [name, number] : kOfRun) compare(name, measured.*number, here.*number);
  compare(kDtype, measured.dtype, here.dtype);
  return fmt::format("{}", fmt::join(parts, ", "));
}

MeasuredFor read_measured_for(const JsonReader& json) {
  MeasuredFor measured;
  read_numbers(json, kOfRun, {kModel, kDtype}, measured);
  read_numbers(json.at(kModel), kOfModel, {}, measured);
  const JsonReader dtype = json.at(kDtype);
  measured.dtype = dtype.as_string();
  if (measured.dtype != "f32" && measured.dtype != "bf16") dtype.fail("f32 or bf16");
  return measured;
}

nlohmann::ordered_json to_json(const MeasuredFor& measured) {
  nlohmann::ordered_json json;
  for (const auto& [name, number] : kOfModel) json[kModel][name] = measured.*number;
  for (const auto& [name, number] : kOfRun) json[name] = measured.*number;
  json[kDtype] = measured.dtype;
  return json;
}

}  // namespace skippipe
