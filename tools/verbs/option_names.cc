#include "tools/verbs/option_names.h"

#include <vector>

#include "base/closest.h"
#include "base/error.h"

namespace skippipe {

std::string failure_message(const CLI::App* app, const CLI::Error& error) {
  const std::string message = CLI::FailureMessage::simple(app, error);
  // What is missing may be there, misspelt.
  const bool is_about_names = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr ||
                              dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (!is_about_names) return message;
  for (const CLI::App* verb : app->get_subcommands()) {
    std::vector<std::string> names;
    for (const CLI::Option* option : verb->get_options()) names.push_back(option->get_name());
    for (const std::string& argument : verb->remaining()) {
      const std::string name = argument.substr(0, argument.find('='));
      if (name.starts_with("--"))
        return verb->get_name() + ": unknown option '" + name + "'" + did_you_mean(name, names) + "\n" +
               "Run skippipe " + verb->get_name() + " --help for its options.\n";
    }
  }
  return message;
}

}  // namespace skippipe
