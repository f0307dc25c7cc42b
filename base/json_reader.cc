#include "base/json_reader.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/closest.h"
#include "base/error.h"
#include "base/file.h"
#include "base/file_kind.h"

namespace skippipe {
namespace {

constexpr int kMaxDepth = 64;

std::string describe(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::null: return "null";
    case nlohmann::json::value_t::object: return "an object";
    case nlohmann::json::value_t::array: return fmt::format("an array of {}", value.size());
    default: {
      std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      if (text.size() > 40) text = text.substr(0, 37) + "...";
      return text;
    }
  }
}

}  // namespace

std::string JsonReader::found() const { return describe(*value_); }

void JsonReader::fail(const std::string& expected) const {
  throw FileError("{}: found {}, expected {}", where_, found(), expected);
}

bool JsonReader::has(const std::string& key) const { return value_->is_object() && value_->contains(key); }

bool JsonReader::is_null() const { return value_->is_null(); }

JsonReader JsonReader::at(const std::string& key) const {
  if (!value_->is_object()) fail(fmt::format("an object with '{}'", key));
  const auto found = value_->find(key);
  if (found == value_->end()) throw FileError("{}: field '{}' is missing", where_, key);
  const bool root = where_.empty() || where_.find(": ") == std::string::npos;
  return {*found, fmt::format("{}{}{}", where_, root ? ": " : ".", key)};
}

std::optional<JsonReader> JsonReader::find(const std::string& key) const {
  if (!has(key) || value_->at(key).is_null()) return std::nullopt;
  return at(key);
}

std::vector<JsonReader> JsonReader::items() const {
  if (!value_->is_array()) fail("an array");
  std::vector<JsonReader> result;
  result.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) result.emplace_back((*value_)[i], fmt::format("{}[{}]", where_, i));
  return result;
}

std::vector<std::string> JsonReader::keys() const {
  if (!value_->is_object()) fail("an object");
  std::vector<std::string> result;
  for (const auto& item : value_->items()) result.push_back(item.key());
  return result;
}

void JsonReader::allow_only(const std::vector<std::string>& known) const {
  for (const std::string& key : keys())
    if (!key.starts_with('_') && std::ranges::find(known, key) == known.end())
      throw FileError("{}: unknown field '{}'{}", where_, key, did_you_mean(key, known));
}

std::string JsonReader::as_string() const {
  if (!value_->is_string()) fail("a string");
  return value_->get<std::string>();
}

bool JsonReader::as_bool() const {
  if (!value_->is_boolean()) fail("true or false");
  return value_->get<bool>();
}

double JsonReader::as_double(double low, double high) const {
  if (!value_->is_number()) fail("a number");
  const double number = value_->get<double>();
  if (!std::isfinite(number) || number < low || number > high) fail(fmt::format("a number from {} to {}", low, high));
  return number;
}

int64_t JsonReader::as_int(int64_t low, int64_t high) const {
  const bool fits = value_->is_number_unsigned() ? value_->get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
                                                 : value_->is_number_integer();
  if (!fits) fail("an integer");
  const auto number = value_->get<int64_t>();
  if (number < low || number > high) fail(fmt::format("an integer from {} to {}", low, high));
  return number;
}

std::string JsonReader::get_string(const std::string& key, const std::string& fallback) const {
  const auto field = find(key);
  return field ? field->as_string() : fallback;
}

bool JsonReader::get_bool(const std::string& key, bool fallback) const {
  const auto field = find(key);
  return field ? field->as_bool() : fallback;
}

double JsonReader::get_double(const std::string& key, double fallback, double low, double high) const {
  const auto field = find(key);
  return field ? field->as_double(low, high) : fallback;
}

int64_t JsonReader::get_int(const std::string& key, int64_t fallback, int64_t low, int64_t high) const {
  const auto field = find(key);
  return field ? field->as_int(low, high) : fallback;
}

nlohmann::json parse_json(std::string_view text, const std::string& name) {
  // Duplicate keys would let two readers see two different documents.
  std::vector<std::set<std::string>> keys;
  const auto guard = [&](int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (depth > kMaxDepth) throw FileError("{}: nested deeper than {} levels", name, kMaxDepth);
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw FileError("{}: key '{}' stands twice in one object", name, parsed.get<std::string>());
    return true;
  };
  try {
    return nlohmann::json::parse(text.begin(), text.end(), guard);
  } catch (const nlohmann::json::exception& error) {
    refuse_foreign_file(text, name, "valid JSON");
    throw FileError("{}: not valid JSON: {}", name, error.what());
  }
}

nlohmann::json load_json(const std::filesystem::path& path, uint64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

}  // namespace skippipe
