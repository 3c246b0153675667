// asyncio.hpp and README.md as texts: what house style and the cover promise, checked by reading.
//
// SOURCE_DIR, PROJECT_VERSION and COMPILE_COMMAND come from meson.build.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

namespace {

namespace fs = std::filesystem;

const fs::path source_dir = SOURCE_DIR;

std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

bool starts_with(std::string_view text, std::string_view start) {
    return text.substr(0, start.size()) == start;
}

std::string trimmed(const std::string& text) {
    const std::size_t first = text.find_first_not_of(" \t");
    if (first == std::string::npos) return {};
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

std::vector<std::string> words(const std::string& text, const std::regex& word) {
    std::vector<std::string> found;
    for (auto it = std::sregex_iterator(text.begin(), text.end(), word);
         it != std::sregex_iterator(); ++it)
        found.push_back((*it)[it->size() > 1 ? 1 : 0].str());
    return found;
}

template <class Range>
std::string joined(const Range& range) {
    std::string text;
    for (const std::string& item : range) text += (text.empty() ? "" : ", ") + item;
    return text;
}

// "file:line: text", as a compiler would say it.
std::string at(const fs::path& file, std::size_t line, const std::string& text) {
    return file.lexically_relative(source_dir).string() + ":" + std::to_string(line) + ": " + text;
}

struct section {
    std::string name;
    std::vector<std::string> uses;
    bool says_uses = false;
    std::size_t line = 0; // 1-based, of the marker
};

// The header, read once.
struct header_text {
    fs::path path = source_dir / "asyncio.hpp";
    std::string text = read(path);
    std::vector<std::string> lines = lines_of(text);
    std::size_t implementation = lines.size();              // index of the #if that opens it
    std::vector<std::pair<std::string, std::size_t>> index; // the entry from its name on, its line
    std::vector<section> sections;

    header_text() {
        static const std::regex entry(R"(^// {2,}\[SECTION\] (.+)$)");
        static const std::regex marker(R"(^// \[SECTION\] (\S.*)$)");
        static const std::regex opening(R"(^#\s*if.*\bASYNCIO_IMPLEMENTATION\b.*)");
        for (std::size_t i = 0; i < lines.size(); ++i) {
            std::smatch match;
            if (std::regex_match(lines[i], match, entry)) {
                index.emplace_back(match[1].str(), i + 1);
            } else if (std::regex_match(lines[i], match, marker) && opens_comment(i)) {
                section found;
                found.name = trimmed(match[1].str());
                found.line = i + 1;
                read_uses(found, i + 1);
                sections.push_back(found);
            } else if (implementation == lines.size() && std::regex_match(lines[i], opening)) {
                implementation = i;
            }
        }
    }

    // A marker inside a sentence is none: it is the first line of its comment, or of its box.
    bool opens_comment(std::size_t i) const {
        return i == 0 || !starts_with(lines[i - 1], "//") || starts_with(lines[i - 1], "// ====");
    }

    // "// uses: a, b," and the lines it goes on in.
    void read_uses(section& found, std::size_t i) {
        const std::string start = "// uses:";
        if (i >= lines.size() || !starts_with(lines[i], start)) return;
        found.says_uses = true;
        std::string list = lines[i].substr(start.size());
        while (trimmed(list).ends_with(',') && ++i < lines.size()) list += lines[i].substr(2);
        std::istringstream names(list);
        for (std::string name; std::getline(names, name, ',');)
            if (!trimmed(name).empty() && trimmed(name) != "nothing")
                found.uses.push_back(trimmed(name));
    }
};

const header_text& header() {
    static const header_text text;
    return text;
}

// `text` with comments blanked out, and unless kept the insides of literals; every other character
// in place.
std::string code_only(std::string text, bool keep_literals = false) {
    enum { code, line_comment, block_comment, string, character, raw } state = code;
    std::string raw_end;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        const char next = i + 1 < text.size() ? text[i + 1] : '\0';
        const bool after_word =
            i > 0 && (std::isalnum(static_cast<unsigned char>(text[i - 1])) != 0);
        if (state == code) {
            if (c == '/' && next == '/') state = line_comment;
            else if (c == '/' && next == '*') state = block_comment;
            else if (c == '"' && i > 0 && text[i - 1] == 'R') {
                const std::size_t open = text.find('(', i);
                raw_end = ")" + text.substr(i + 1, open - i - 1) + "\"";
                state = raw;
                continue;
            } else if (c == '"') {
                state = string;
                continue;
            } else if (c == '\'' && !after_word) { // and no digit separator
                state = character;
                continue;
            } else continue;
        }
        switch (state) {
        case line_comment:
            if (c == '\n') state = code;
            break;
        case block_comment:
            if (c == '/' && i > 0 && text[i - 1] == '*') {
                state = code;
                continue;
            }
            break;
        case string:
        case character:
            if (c == '\\') {
                if (keep_literals) {
                    ++i;
                    continue;
                }
                text[i++] = ' ';
            } else if (c == (state == string ? '"' : '\'') || c == '\n') {
                state = code;
                continue;
            }
            break;
        case raw:
            if (text.compare(i, raw_end.size(), raw_end) == 0) {
                i += raw_end.size() - 1;
                state = code;
                continue;
            }
            break;
        case code:
            break;
        }
        const bool comment = state == line_comment || state == block_comment;
        if (text[i] != '\n' && (comment || !keep_literals)) text[i] = ' ';
    }
    return text;
}

std::set<std::string> identifiers_in(const std::string& code) {
    const auto part = [](char c) {
        return c == '_' || std::isalnum(static_cast<unsigned char>(c));
    };
    std::set<std::string> found;
    for (std::size_t i = 0; i < code.size();) {
        const std::size_t start = i;
        while (i < code.size() && part(code[i])) ++i;
        if (i > start) found.insert(code.substr(start, i - start));
        else ++i;
    }
    return found;
}

std::size_t line_number(const std::string& text, std::size_t place) {
    return static_cast<std::size_t>(
               std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(place), '\n')) +
           1;
}

// Everything in C++ that this repository holds.
std::vector<fs::path> cpp_files() {
    std::vector<fs::path> files = {source_dir / "asyncio.hpp"};
    for (const char* folder : {"tests", "examples"})
        for (const fs::directory_entry& entry :
             fs::recursive_directory_iterator(source_dir / folder)) {
            const bool foreign = entry.path().string().find("/subprojects/") != std::string::npos;
            const std::string extension = entry.path().extension().string();
            if (!foreign && (extension == ".cpp" || extension == ".hpp"))
                files.push_back(entry.path());
        }
    std::sort(files.begin(), files.end());
    return files;
}

// A folder that goes away with the test.
struct scratch {
    fs::path path;

    scratch() {
        std::string name = (fs::temp_directory_path() / "asyncio-header-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
        path = name;
    }
    ~scratch() {
        std::error_code ignored;
        fs::remove_all(path, ignored);
    }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
};

// Runs a shell command; gives its exit code and all it printed.
std::pair<int, std::string> shell(const std::string& command, const fs::path& folder) {
    const fs::path output = folder / "output";
    const int status = std::system((command + " >" + output.string() + " 2>&1").c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read(output)};
}

std::string preprocessed(const std::string& program, const std::string& arguments = {}) {
    const scratch folder;
    const fs::path file = folder.path / "program.cpp";
    std::ofstream(file) << program;
    const auto [code, output] = shell(
        COMPILE_COMMAND " -I" SOURCE_DIR " -E " + arguments + " " + file.string(), folder.path);
    INFO(output);
    REQUIRE(code == 0);
    return output;
}

// The header is another one in each of these.
const std::vector<std::string> configurations = {
    "", "-DASYNCIO_BACKEND_POLL", "-DASYNCIO_BACKEND_NONE", "-DASYNCIO_NO_THREADS",
    "-fno-exceptions -fno-rtti"};

std::set<std::string> macros_after(const std::string& program, const std::string& configuration) {
    static const std::regex define(R"(#define (\w+))");
    const std::vector<std::string> names =
        words(preprocessed(program, "-dM " + configuration), define);
    return {names.begin(), names.end()};
}

} // namespace

TEST_SUITE("layout") {

TEST_CASE("at the top there is the header, and beside it five things") {
    const std::set<std::string> programs = {"agent", "greet"}; // that the README's commands leave
    std::set<std::string> found;
    for (const fs::directory_entry& entry : fs::directory_iterator(source_dir)) {
        const std::string name = entry.path().filename().string();
        const bool build = fs::exists(entry.path() / "meson-private");
        if (!starts_with(name, ".") && !build && programs.count(name) == 0) found.insert(name);
    }
    CHECK(joined(found) == "LICENSE, README.md, asyncio.hpp, examples, meson.build, tests");
}

TEST_CASE("the index on the cover lists exactly the sections, in order") {
    std::vector<std::string> listed;
    std::vector<std::string> marked;
    for (const auto& [name, line] : header().index) listed.push_back(name);
    for (const section& s : header().sections) marked.push_back(s.name);
    REQUIRE_FALSE(marked.empty());
    for (std::size_t i = 0; i < std::max(listed.size(), marked.size()); ++i) {
        const std::string in_index = i < listed.size() ? listed[i] : "(nothing)";
        const std::string in_file = i < marked.size() ? marked[i] : "(nothing)";
        const bool same = starts_with(in_index + " ", in_file + " "); // words about it may follow
        REQUIRE_MESSAGE(same, "entry ", i + 1, ": ", in_index, " stands for ", in_file);
    }
    CHECK(header().index.back().second < header().sections.front().line);
}

TEST_CASE("every section says which sections above it it uses") {
    std::set<std::string> above;
    for (const section& s : header().sections) {
        const std::string place = at(header().path, s.line, "[SECTION] " + s.name);
        CAPTURE(place);
        CHECK_MESSAGE(above.count(s.name) == 0, "the name stands twice");
        const bool uses_none = above.empty() || s.name == "licence";
        if (!uses_none) CHECK_MESSAGE(s.says_uses, "the next line must be \"// uses: ...\"");
        for (const std::string& name : s.uses)
            CHECK_MESSAGE(above.count(name) == 1, "uses \"", name, "\", which is no section above");
        above.insert(s.name);
    }
}

// Names of one word are those of variables, too, and are not looked at.
TEST_CASE("a section that uses a type says that it uses the type's section") {
    static const std::regex head("\n(class|struct|enum class|using) ([^;{=]*)([;{=])");
    static const std::regex attribute(R"(\[\[[^\]]*\]\]|\bASYNCIO_API\b|\bfinal\b)");
    static const std::regex base(R"(\s:\s[\s\S]*)");
    static const std::regex forward(R"(\b(?:class|struct) (\w+))");
    std::map<std::string, std::set<std::string>> known; // the names that a section declares
    std::map<std::string, std::string> home;            // the section that defines a name
    std::vector<std::string> codes;
    const std::vector<section>& sections = header().sections;
    const std::vector<std::string> lines = lines_of(code_only(header().text));
    for (std::size_t i = 0; i < sections.size(); ++i) {
        const std::size_t end = i + 1 < sections.size() ? sections[i + 1].line : lines.size();
        std::string code = "\n";
        for (std::size_t l = sections[i].line; l < end; ++l) code += lines[l] + "\n";
        codes.push_back(code);
        std::set<std::string>& names = known[sections[i].name];
        for (const std::string& name : words(code, forward)) names.insert(name);
        for (auto it = std::sregex_iterator(code.begin(), code.end(), head);
             it != std::sregex_iterator(); ++it) {
            std::string name = std::regex_replace((*it)[2].str(), attribute, "");
            name = trimmed(std::regex_replace(name, base, ""));
            const bool defines = ((*it)[1] == "using") == ((*it)[3] == "=") && (*it)[3] != ";";
            if (!defines || name.find_first_of(":<") != name.npos) continue;
            home.emplace(name, sections[i].name);
            names.insert(name);
        }
    }
    CHECK(home.size() > 300);
    for (std::size_t i = 0; i < sections.size(); ++i)
        for (const std::string& name : identifiers_in(codes[i])) {
            if (name.find('_') == name.npos || home.count(name) == 0) continue;
            bool found = known[sections[i].name].count(name) == 1;
            for (const std::string& used : sections[i].uses)
                found = found || known[used].count(name) == 1;
            CHECK_MESSAGE(found, at(header().path, sections[i].line, sections[i].name), " uses ",
                          name, " of \"", home[name], "\"");
        }
}

TEST_CASE("declarations include light standard headers only") {
    static const std::regex include(R"(^#\s*include\s*[<"]([^>"]+)[>"].*)");
    // What pulls in most of the library, and what is for the implementation.
    const std::set<std::string> heavy = {
        "regex",  "iostream",           "thread",  "mutex",  "future",
        "format", "condition_variable", "fstream", "ranges", "unordered_map",
        "filesystem"};
    for (std::size_t i = 0; i < header().implementation; ++i) {
        std::smatch match;
        if (!std::regex_match(header().lines[i], match, include)) continue;
        const std::string name = match[1].str();
        const std::string place = at(header().path, i + 1, header().lines[i]);
        CAPTURE(place);
        CHECK_MESSAGE(name.find_first_of("./") == std::string::npos, "no OS header here");
        CHECK_MESSAGE(heavy.count(name) == 0, "too heavy for the declarations");
    }
    CHECK(header().implementation < header().lines.size());
}

TEST_CASE("the guards are macros, as `#pragma once` would break implementing later") {
    for (std::size_t i = 0; i < header().lines.size(); ++i)
        if (starts_with(trimmed(header().lines[i]), "#pragma once"))
            FAIL_CHECK(at(header().path, i + 1, header().lines[i]));
}

TEST_CASE("lines are ASCII, at most 100 wide, without tabs and trailing blanks") {
    std::vector<fs::path> files = cpp_files();
    files.push_back(source_dir / "tests/catalogue.txt");
    for (const fs::path& file : files) {
        const std::vector<std::string> lines = lines_of(read(file));
        bool printed = false; // what an example prints stands at its end, as it is
        for (std::size_t i = 0; i < lines.size(); ++i) {
            const std::string& line = lines[i];
            printed = printed || starts_with(line, "// Output");
            const bool plain =
                std::all_of(line.begin(), line.end(), [](char c) { return c >= ' ' && c <= '~'; });
            // A test's name is one sentence on one line, and so is a command to be copied.
            const bool one_line = line.find("TEST_CASE") != std::string::npos ||
                                  starts_with(trimmed(line), "//     g++ ");
            const bool fits = line.size() <= 100 || one_line || printed;
            const bool ends = line.empty() || line.back() != ' ';
            if (!plain || !fits || !ends) FAIL_CHECK(at(file, i + 1, line));
        }
    }
}

// As the macros have it: 1.2.3.
std::string version_of_the_header() {
    const auto part = [](const char* name) {
        std::smatch match;
        const std::regex define(std::string("#define ASYNCIO_VERSION_") + name + R"( (\d+))");
        REQUIRE(std::regex_search(header().text, match, define));
        return match[1].str();
    };
    return part("MAJOR") + "." + part("MINOR") + "." + part("PATCH");
}

TEST_CASE("the version is the same everywhere") {
    const std::string version = version_of_the_header();
    CHECK(version == PROJECT_VERSION);
    CHECK(header().lines.at(0).ends_with("version " + version));
    std::string name = version;
    std::replace(name.begin(), name.end(), '.', '_');
    CHECK_MESSAGE(header().text.find("v" + name) != std::string::npos,
                  "the inline namespace names the version");
}

TEST_CASE("the changelog on the cover begins with this version") {
    static const std::regex changes(R"(\n// CHANGES\n//   (\d+\.\d+\.\d+) +\w)");
    const std::string cover = header().text.substr(0, header().text.find("#if"));
    std::smatch match;
    REQUIRE(std::regex_search(cover, match, changes));
    CHECK(match[1].str() == version_of_the_header());
}

TEST_CASE("the licence stands at the end, as in LICENSE") {
    std::string expected;
    for (const std::string& line : lines_of(read(source_dir / "LICENSE"))) expected += line + ' ';
    std::string found;
    const std::size_t start = header().sections.empty() ? 0 : header().sections.back().line;
    for (std::size_t i = start; i < header().lines.size(); ++i)
        if (starts_with(header().lines[i], "//")) found += header().lines[i].substr(2) + ' ';
    const auto one_spaced = [](const std::string& text) {
        return trimmed(std::regex_replace(text, std::regex(R"(\s+)"), " "));
    };
    const std::string licence = one_spaced(expected);
    CHECK_MESSAGE(one_spaced(found).find(licence.substr(licence.find("Copyright"))) !=
                      std::string::npos,
                  "the last section repeats LICENSE from \"Copyright\" on");
}

} // TEST_SUITE

TEST_SUITE("macros") {

TEST_CASE("the configuration table has every macro that the header tests or sets, and no other") {
    static const std::regex word(R"(\bASYNCIO_[A-Z0-9_]+\b)");
    static const std::regex row(R"(^// {2,}(ASYNCIO_[A-Z0-9_]+.*)$)");
    static const std::regex directive(R"(^\s*#\s*(if|ifdef|ifndef|elif|define)\b.*)");
    static const std::regex defined(R"(^\s*#\s*define\s+(ASYNCIO_[A-Z0-9_]+).*)");
    std::set<std::string> table;
    std::set<std::string> used;
    std::set<std::string> undefined;
    const std::size_t first_section = header().sections.at(1).line;
    for (std::size_t i = 0; i < header().lines.size(); ++i) {
        const std::string& line = header().lines[i];
        std::smatch match;
        if (i < first_section && std::regex_match(line, match, row)) {
            // A row may name several, before the two blanks that begin what it says of them.
            const std::string names = std::regex_replace(match[1].str(), std::regex(" {2,}.*"), "");
            for (const std::string& name : words(names, word)) table.insert(name);
        } else if (std::regex_match(line, match, defined)) {
            used.insert(match[1].str());
        } else if (std::regex_match(line, directive)) {
            for (const std::string& name : words(code_only(line), word)) used.insert(name);
        } else if (line.find("#undef ASYNCIO_") != std::string::npos) {
            for (const std::string& name : words(line, word)) undefined.insert(name);
        }
    }
    REQUIRE_FALSE(table.empty());
    for (const std::string& name : used)
        if (undefined.count(name) == 0)
            CHECK_MESSAGE(table.count(name) == 1, name, " is in no row of the table");
    for (const std::string& name : table)
        CHECK_MESSAGE(used.count(name) == 1, name,
                      " is in the table, and nothing tests or sets it");
}

TEST_CASE("including the header adds no macro but ASYNCIO_* to those of the headers it includes") {
    // What is included, each under its condition, and what is asked there.
    static const std::regex kept(R"(^\s*#\s*(if|ifdef|ifndef|elif|else|endif|include)\b.*)");
    static const std::regex ours(R"(^\s*#\s*define ASYNCIO_(?!HPP|IMPLEMENTATION_DONE).*)");
    std::string declarations;
    std::string all;
    bool goes_on = false;
    for (std::size_t i = 0; i < header().lines.size(); ++i) {
        const std::string& line = header().lines[i];
        if (i == header().implementation) declarations = all;
        if (goes_on || std::regex_match(line, kept) || std::regex_match(line, ours)) {
            all += line + "\n";
            goes_on = line.ends_with('\\');
        }
    }
    const std::string implementing = "#define ASYNCIO_IMPLEMENTATION\n";
    for (const std::string& configuration : configurations)
        for (const auto& [before, after] :
             {std::pair(declarations, std::string("#include \"asyncio.hpp\"\n")),
              std::pair(implementing + all, implementing + "#include \"asyncio.hpp\"\n")}) {
            const std::set<std::string> known = macros_after(before, configuration);
            std::vector<std::string> leaked;
            for (const std::string& name : macros_after(after, configuration))
                if (known.count(name) == 0 && !starts_with(name, "ASYNCIO_"))
                    leaked.push_back(name);
            CHECK_MESSAGE(leaked.empty(), "leaked with [", configuration, "]: ", joined(leaked));
        }
}

} // TEST_SUITE

TEST_SUITE("words") {

TEST_CASE("labels in comments are the four of the house, in their order") {
    static const std::regex comment(R"(^\s*///(.*)$)");
    static const std::regex label(R"(^ (Thread safety|[A-Z][a-z]+):(?: .*)?$)");
    const std::vector<std::string> allowed = {"Throws", "Cancellation", "Lifetime",
                                              "Thread safety"};
    std::ptrdiff_t last = -1; // the place in `allowed` of the last label of this block
    bool paragraph = true;    // the next line begins one
    for (std::size_t i = 0; i < header().lines.size(); ++i) {
        const std::string place = at(header().path, i + 1, header().lines[i]);
        CAPTURE(place);
        std::smatch match;
        const std::string line = header().lines[i];
        if (!std::regex_match(line, match, comment)) {
            last = -1;
            paragraph = true;
            continue;
        }
        const std::string text = match[1].str();
        std::smatch named;
        if (std::regex_match(text, named, label)) {
            const auto it = std::find(allowed.begin(), allowed.end(), named[1].str());
            if (it != allowed.end()) {
                CHECK_MESSAGE(it - allowed.begin() > last, "labels out of order");
                last = it - allowed.begin();
            } else if (paragraph && text.size() > named[1].str().size() + 3) {
                FAIL_CHECK("no label of the house");
            }
        }
        paragraph = trimmed(text).empty();
    }
}

TEST_CASE("comments have no markup of documentation tools and no open ends") {
    static const std::regex markup(
        R"(//.*([@\\](param|brief|return|returns|throws|file|class)\b))");
    static const std::regex open_end(R"(//.*\b(TODO|FIXME|XXX)\b(?! *\(#\d+\)))");
    for (std::size_t i = 0; i < header().lines.size(); ++i)
        if (std::regex_search(header().lines[i], markup) ||
            std::regex_search(header().lines[i], open_end))
            FAIL_CHECK(at(header().path, i + 1, header().lines[i]));
}

TEST_CASE("no name in the declarations is one that systems define as a macro") {
    static const std::set<std::string> forbidden = {"emit",      "signals", "slots", "small",
                                                    "near",      "far",     "ERROR", "major",
                                                    "interface", "minor",   "linux", "unix"};
    const std::vector<std::string> lines = lines_of(code_only(header().text));
    for (std::size_t i = 0; i < header().implementation; ++i) {
        if (starts_with(trimmed(lines[i]), "#")) continue;
        for (const std::string& name : identifiers_in(lines[i]))
            if (forbidden.count(name) == 1) FAIL_CHECK(at(header().path, i + 1, header().lines[i]));
        // min( and max( are macros on Windows; (std::min)(a, b) is not one.
        static const std::regex call(R"(\b(min|max)\s*\()");
        if (std::regex_search(lines[i], call))
            FAIL_CHECK(at(header().path, i + 1, header().lines[i]));
    }
}

// What the header declares there, each once, as the compiler sees it without what it includes.
std::set<std::string> declared_globally(const std::string& configuration) {
    std::string code;
    bool inside = false;
    static const std::regex place(R"(^# \d+ "([^"]*)\".*)");
    for (const std::string& line :
         lines_of(preprocessed("#define ASYNCIO_IMPLEMENTATION\n#include \"asyncio.hpp\"\n",
                               configuration))) {
        std::smatch match;
        if (std::regex_match(line, match, place)) inside = match[1].str().ends_with("asyncio.hpp");
        else if (inside && !starts_with(trimmed(line), "#")) code += line + "\n";
    }
    code = code_only(code);
    // What stands in a block of C's stands outside of all others.
    const std::string block = "extern \" \" {";
    if (const std::size_t start = code.find(block); start != std::string::npos) {
        code.erase(code.find('}', start), 1);
        code.erase(start, block.size());
    }
    std::set<std::string> found;
    int depth = 0;
    std::string outside;
    for (const char c : code) {
        if (c == '}' && --depth < 0) break;
        if (depth == 0 && (c == '{' || c == ';')) {
            found.insert(trimmed(std::regex_replace(outside, std::regex(R"(\s+)"), " ")));
            outside.clear();
        } else if (depth == 0 && c != '}') {
            outside += c;
        }
        if (c == '{') ++depth;
    }
    CHECK(depth == 0);
    found.erase(""); // after a class
    return found;
}

TEST_CASE("nothing is declared in the global namespace") {
    const std::string ours = R"(namespace asyncio::inline v\w+(::detail)?|)"
                             R"(template <.*> struct std::\w+<asyncio::.*|)";
    for (const std::string& configuration : configurations) {
        CAPTURE(configuration);
        // What POSIX asks for, and what the program defines.
        const bool alone = configuration == "-DASYNCIO_BACKEND_NONE";
        const std::regex allowed(ours + (alone ? R"(\S+ asyncio_port_(now_ns|idle)\(.*\))"
                                               : R"(extern " " char\*\* environ)"));
        const std::set<std::string> declared = declared_globally(configuration);
        CHECK(declared.size() > 5);
        for (const std::string& text : declared)
            CHECK_MESSAGE(std::regex_match(text, allowed), text);
    }
}

} // TEST_SUITE

TEST_SUITE("g++ 12") {

// g++ 12 compiles some of these into wrong code without a warning. A condition that declares a name
// is fine: `while (auto item = co_await queue.next())`.
TEST_CASE("no co_await stands in a condition or a ternary") {
    static const std::regex condition(R"(\b(if|while|switch|for)\s*(constexpr\s*)?\()");
    static const std::regex declares(R"(^\s*[^=?]*[\w>&]\s+&*\w+\s*=\s*co_await\b[^;]*$)");
    static const std::regex ranges(R"(^[^;?]*[\w\]] *: [^;?]*$)");
    static const std::regex await(R"(\bco_await\b)");
    for (const fs::path& file : cpp_files()) {
        const std::string code = code_only(read(file));
        for (auto it = std::sregex_iterator(code.begin(), code.end(), condition);
             it != std::sregex_iterator(); ++it) {
            const std::size_t open = static_cast<std::size_t>(it->position() + it->length());
            std::size_t close = open;
            for (int depth = 1; close < code.size() && depth > 0; ++close) {
                if (code[close] == '(') ++depth;
                if (code[close] == ')') --depth;
            }
            const std::string inside = code.substr(open, close - open - 1);
            if (!std::regex_search(inside, await)) continue;
            const bool fine = std::regex_match(inside, declares) ||
                              ((*it)[1] == "for" && std::regex_match(inside, ranges));
            if (!fine) FAIL_CHECK(at(file, line_number(code, open), "if (" + inside + ")"));
        }
        for (std::size_t i = code.find('?'); i != std::string::npos; i = code.find('?', i + 1)) {
            // The arms end with the statement or with the bracket around the ternary.
            std::size_t end = i;
            for (int depth = 0; end < code.size() && depth >= 0 && code[end] != ';'; ++end) {
                if (code[end] == '(' || code[end] == '{') ++depth;
                if (code[end] == ')' || code[end] == '}') --depth;
            }
            // The bracket around it, if there is one in this statement.
            std::size_t start = i;
            for (int depth = 0; start > 0; --start) {
                const char c = code[start - 1];
                if (c == ';' || c == '{' || c == '}') break;
                if (c == ')') ++depth;
                if (c == '(' && depth-- == 0) break;
            }
            const std::string before =
                code.substr(start > 30 ? start - 30 : 0, start > 30 ? 30 : start);
            const std::string whole = code.substr(start, end - start);
            static const std::regex awaited(R"(\bco_await\s*\(\s*$)");
            if (std::regex_search(whole, await) || std::regex_search(before, awaited))
                FAIL_CHECK(at(file, line_number(code, i), trimmed(whole)));
        }
    }
}

} // TEST_SUITE

TEST_SUITE("catalogue") {

// tests/catalogue.txt lists the behaviours of Python's asyncio by area: "TG 26 TaskGroup". A test
// of one begins its name with the ID: "TG-07: ...", or with several: "TG-07, TG-08: ...".
TEST_CASE("every behaviour of the catalogue has a test, and no test has an ID of its own") {
    std::map<std::string, int> size;
    std::vector<std::string> areas;
    std::istringstream catalogue(read(source_dir / "tests/catalogue.txt"));
    for (std::string line; std::getline(catalogue, line);) {
        std::istringstream row(line);
        std::string area;
        int count = 0;
        REQUIRE((row >> area >> count));
        areas.push_back(area);
        size[area] = count;
    }

    static const std::regex name(R"re(TEST_CASE\w*\(\s*"([A-Z]{2}-\d\d[^:"]*):)re");
    static const std::regex id(R"(\b[A-Z]{2}-\d\d\b)");
    std::map<std::string, std::set<int>> tested;
    for (const fs::path& file : cpp_files())
        for (const std::string& list : words(code_only(read(file), true), name))
            for (const std::string& one : words(list, id)) {
                const std::string area = one.substr(0, 2);
                const int number = std::stoi(one.substr(3));
                const bool exists = size.count(area) == 1 && number >= 1 && number <= size[area];
                CHECK_MESSAGE(exists, one, " in ", file.filename().string(), " does not exist");
                if (exists) tested[area].insert(number);
            }

    std::string report;
    std::size_t done = 0;
    std::size_t all = 0;
    for (const std::string& area : areas) {
        std::string missing;
        for (int number = 1; number <= size[area]; ++number)
            if (tested[area].count(number) == 0) missing += " " + std::to_string(number);
        const std::string row = area + " " + std::to_string(tested[area].size()) + " of " +
                                std::to_string(size[area]) + (missing.empty() ? "" : ", without:") +
                                missing;
        report += "\n    " + row;
        CHECK_MESSAGE(missing.empty(), row);
        done += tested[area].size();
        all += static_cast<std::size_t>(size[area]);
    }
    MESSAGE("behaviours of the catalogue with a test: ", done, " of ", all, report);
}

TEST_CASE("no test or suite of behaviours is skipped but under Wine, may fail, or is expected to") {
    static const std::regex decorated(R"re(TEST_CASE\w*\(\s*("[A-Z]{2}-\d\d[^"]*"\s*\*[^{]*))re");
    static const std::regex behaviour(R"re(TEST_CASE\w*\(\s*"[A-Z]{2}-\d\d)re");
    static const std::regex decorated_suite(R"re(TEST_SUITE\w*\(\s*("[^"]*"\s*\*[^{]*))re");
    for (const fs::path& file : cpp_files()) {
        const std::string text = code_only(read(file), true);
        std::vector<std::string> wrong = words(text, decorated);
        // It lacks some of what Windows has.
        std::erase_if(wrong, [](const std::string& test) {
            return test.find("doctest::skip(under_wine)") != test.npos;
        });
        if (std::regex_search(text, behaviour))
            for (const std::string& suite : words(text, decorated_suite)) wrong.push_back(suite);
        for (const std::string& one : wrong)
            FAIL_CHECK(at(file, line_number(text, text.find(one)), trimmed(one)));
    }
}

} // TEST_SUITE

TEST_SUITE("readme") {

struct block {
    std::string language;
    std::string text;
    std::size_t line = 0;
};

std::vector<block> readme_blocks() {
    std::vector<block> blocks;
    const std::vector<std::string> lines = lines_of(read(source_dir / "README.md"));
    bool inside = false;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        if (!starts_with(lines[i], "```")) {
            if (inside) blocks.back().text += lines[i] + "\n";
            continue;
        }
        inside = !inside;
        if (inside) blocks.push_back({lines[i].substr(3), "", i + 1});
    }
    return blocks;
}

// A block with main() is a whole program. Any other stands for the inside of a coroutine, in a
// program that has these to work with.
std::string as_program(const block& code) {
    if (code.text.find("int main(") != std::string::npos) return code.text;
    return R"(#include "asyncio.hpp"
#include <iostream>
#include <string>
#include <vector>
using namespace std::chrono_literals;

asyncio::coro<std::string> fetch(std::string name, asyncio::duration latency) {
    co_await asyncio::sleep(latency);
    co_return "data from " + name;
}
double simulate(int seed) { return seed * 2.0; }

asyncio::coro<> readme_block() {
)" + code.text +
           R"(    co_return;
}
)";
}

TEST_CASE("every C++ block of the README compiles") {
    const scratch folder;
    int count = 0;
    for (const block& code : readme_blocks()) {
        if (code.language != "cpp") continue;
        if (code.text.find("<https:") != std::string::npos) continue; // is dropping_in.py's
        ++count;
        const fs::path file = folder.path / "block.cpp";
        std::ofstream(file) << as_program(code);
        const auto [status, output] =
            shell(COMPILE_COMMAND " -Wall -Wextra -fsyntax-only -I" SOURCE_DIR " " + file.string(),
                  folder.path);
        CHECK_MESSAGE(status == 0, at(source_dir / "README.md", code.line, ""), code.text, output);
        CHECK_MESSAGE(output.empty(), at(source_dir / "README.md", code.line, ""), output);
    }
    CHECK(count > 0);
}

TEST_CASE("\"Try it\" has two shell blocks of one command line each") {
    const std::string text = read(source_dir / "README.md");
    const std::size_t start = text.find("\n## Try it\n");
    REQUIRE(start != std::string::npos);
    const std::size_t first = line_number(text, start) + 1;
    const std::size_t last =
        line_number(text, std::min(text.find("\n## ", start + 1), text.size()));
    int count = 0;
    for (const block& code : readme_blocks()) {
        if (code.line < first || code.line > last) continue;
        ++count;
        CHECK(code.language == "sh");
        CHECK_MESSAGE(std::count(code.text.begin(), code.text.end(), '\n') == 1, code.text);
    }
    CHECK(count == 2);
}

TEST_CASE("the table of Python's names has only what the header has") {
    // In a row "| Python | here |", what stands in the second column between back-quotes.
    static const std::regex quoted("`([^`]+)`");
    static const std::regex identifier(R"([a-z_][a-z0-9_]{2,})");
    const std::set<std::string> known = identifiers_in(code_only(header().text));
    const std::string text = read(source_dir / "README.md");
    const std::size_t start = text.find("| Python |");
    REQUIRE(start != std::string::npos);
    for (const std::string& row : lines_of(text.substr(start, text.find("\n\n", start) - start))) {
        const std::size_t second = row.find('|', 1);
        for (const std::string& here : words(row.substr(second), quoted))
            for (const std::string& name : words(here, identifier))
                CHECK_MESSAGE(known.count(name) == 1, name, " is not in the header: ", row);
    }
}

} // TEST_SUITE
