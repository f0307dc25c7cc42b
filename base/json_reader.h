// Strict reading of JSON that we did not write: every field is checked for presence, type and range, and every error
// names the file, the path of the field, what was found and what was expected.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace skippipe {

// A view of one value inside a document; cheap to copy. The document must outlive it.
class JsonReader {
 public:
  JsonReader(const nlohmann::json& value, std::string where) : value_(&value), where_(std::move(where)) {}

  bool has(const std::string& key) const;
  bool is_null() const;
  JsonReader at(const std::string& key) const;   // throws FileError if this is no object or has no such key
  std::optional<JsonReader> find(const std::string& key) const;  // nullopt when absent or null
  std::vector<JsonReader> items() const;          // throws FileError if this is no array
  std::vector<std::string> keys() const;          // throws FileError if this is no object
  // Throws FileError if this is no object, or has a field that is none of these and does not begin with '_' (which
  // people write for themselves); it names the one that was meant, where one is close.
  void allow_only(const std::vector<std::string>& known) const;

  std::string as_string() const;
  bool as_bool() const;
  // Finite, within [low, high].
  double as_double(double low = -std::numeric_limits<double>::max(), double high = std::numeric_limits<double>::max()) const;
  int64_t as_int(int64_t low = std::numeric_limits<int64_t>::min(), int64_t high = std::numeric_limits<int64_t>::max()) const;

  // The same with a default for an absent or null key.
  std::string get_string(const std::string& key, const std::string& fallback) const;
  bool get_bool(const std::string& key, bool fallback) const;
  double get_double(const std::string& key, double fallback, double low, double high) const;
  int64_t get_int(const std::string& key, int64_t fallback, int64_t low, int64_t high) const;

  // The value as messages show it: short.
  std::string found() const;
  // Throws FileError saying `expected` and what is here instead.
  [[noreturn]] void fail(const std::string& expected) const;
  // "file: stages[2]"
  const std::string& where() const { return where_; }
  const nlohmann::json& value() const { return *value_; }

 private:
  const nlohmann::json* value_;
  std::string where_;
};

// Parses text (no comments, at most 64 levels deep, no duplicate keys). Throws FileError; name stands for the file.
nlohmann::json parse_json(std::string_view text, const std::string& name);
nlohmann::json load_json(const std::filesystem::path& path, uint64_t max_bytes = 64ull << 20);

}  // namespace skippipe
