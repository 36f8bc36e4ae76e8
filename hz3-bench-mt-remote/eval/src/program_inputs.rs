//! Program inputs: what the whole programs work on, generated so that it is the same everywhere.

use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The folder of inputs and of what the programs write.
pub struct Inputs {
    folder: PathBuf,
}

const SQL: &str = "\
PRAGMA journal_mode = OFF;
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, price REAL, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
  INSERT INTO item
  SELECT i, 'item ' || (i * 7919 % 150001), i % 97, (i * 31 % 1000) / 10.0, hex(i * 2654435761 % 4294967296) || '-' || i
  FROM n;
CREATE INDEX by_name ON item(name);
SELECT kind, count(*), avg(price), length(group_concat(name, ';')) FROM item GROUP BY kind;
SELECT count(*) FROM item a JOIN item b ON b.name = 'item ' || a.id;
UPDATE item SET note = note || '/' || name WHERE kind < 40;
DELETE FROM item WHERE kind % 3 = 0;
SELECT sum(length(upper(note))), count(DISTINCT substr(note, 1, 4)) FROM item;
SELECT name, price FROM item ORDER BY price DESC, name LIMIT 5;
";

const PYTHON_JSON: &str = "\
import json
rows = [{'id': i, 'name': 'item %d' % (i * 7919 % 100003), 'tags': [str(i % k) for k in range(1, 9)],
         'nested': {'x': i / 7, 'y': None, 'z': [i, i + 1, {'deep': True}]}} for i in range(20000)]
for _ in range(4):
    text = json.dumps(rows)
    rows = json.loads(text)
assert rows[19999]['nested']['z'][2]['deep']
";

const PYTHON_OBJECTS: &str = "\
class Node:
    def __init__(self, key, left, right):
        self.key, self.left, self.right = key, left, right

def tree(depth, key):
    return None if depth == 0 else Node(str(key), tree(depth - 1, 2 * key), tree(depth - 1, 2 * key + 1))

def count(node):
    return 0 if node is None else 1 + count(node.left) + count(node.right)

kept = tree(14, 1)
for round in range(12):
    assert count(tree(13, round)) == 8191
words = {}
for i in range(300000):
    words.setdefault('word %d' % (i * 7919 % 50021), []).append(i)
assert count(kept) == 16383 and len(words) == 50021
";

const RUBY: &str = "\
Item = Struct.new(:id, :name, :tags)
kept = []
6.times do |round|
  items = (0...40000).map { |i| Item.new(i, \"item #{i * 7919 % 100003}\", (1..6).map { |k| (i % k).to_s }) }
  by_name = items.group_by { |item| item.name[0, 7] }
  text = by_name.map { |name, list| name + ':' + list.map(&:id).join(',') }.sort.join(\"\\n\")
  kept << text.gsub(/\\d+/) { |digits| digits.reverse }
end
raise unless kept.size == 6
";

const POSTSCRIPT_BODY: &str = "\
/page {
  /Times-Roman findfont 9 scalefont setfont
  0 1 60 { /line exch def
    40 760 line 12 mul sub moveto
    0 1 14 { line add 7919 mul n add 100003 mod 12 string cvs show ( ) show } for
  } for
  0 1 250 { /k exch def
    newpath 300 400 moveto
    k 7 mul 360 mod dup cos 250 mul 300 add exch sin 250 mul 400 add
    k 13 mul 360 mod dup cos 250 mul 300 add exch sin 250 mul 400 add
    k 29 mul 360 mod dup cos 250 mul 300 add exch sin 250 mul 400 add curveto
    k 251 div setgray stroke
  } for
  showpage
} def
";

impl Inputs {
    /// Writes every input into `folder`.
    pub fn write(folder: &Path) -> Result<Inputs> {
        std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        let inputs = Inputs { folder: folder.to_owned() };
        let files = [
            ("queries.sql", SQL.to_owned()),
            ("documents.py", PYTHON_JSON.to_owned()),
            ("objects.py", PYTHON_OBJECTS.to_owned()),
            ("items.rb", RUBY.to_owned()),
            ("unit.c", c_source(80)),
            ("unit.cpp", cpp_source(2)),
            ("unit.rs", rust_source(8)),
            ("puzzle.smt2", pigeonhole(8)),
            ("pages.ps", postscript(40)),
        ];
        for (name, text) in files {
            let path = inputs.path(name);
            std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(inputs)
    }

    /// The path of an input, or of a file that a program writes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A C file of `count` functions with loops, switches and a common table.
fn c_source(count: u32) -> String {
    let mut text = String::from(
        "#include <stdio.h>\n#include <string.h>\nstruct entry { int key; double weight; char name[16]; };\n",
    );
    for i in 0..count {
        let _ = write!(
            text,
            "static struct entry table{i}[{size}];\n\
             int scan{i}(int n) {{\n  int sum = {i};\n  for (int k = 0; k < n; k++) {{\n    \
             switch ((k * {odd} + sum) % 5) {{\n      case 0: sum += table{i}[k % {size}].key; break;\n      \
             case 1: sum ^= k << 3; break;\n      case 2: table{i}[k % {size}].weight *= 1.5; break;\n      \
             case 3: sum -= (int)strlen(table{i}[k % {size}].name); break;\n      default: sum = sum * 31 + k;\n    }}\n  }}\n  \
             return sum;\n}}\n",
            size = 8 + i % 23,
            odd = 2 * i + 1
        );
    }
    text.push_str("int main(void) {\n  int all = 0;\n");
    for i in 0..count {
        let _ = writeln!(text, "  all += scan{i}({});", i % 50);
    }
    text.push_str("  return printf(\"%d\\n\", all) < 0;\n}\n");
    text
}

/// A C++ file that instantiates standard containers for `count` types.
fn cpp_source(count: u32) -> String {
    let mut text = String::from(
        "#include <algorithm>\n#include <functional>\n#include <map>\n#include <memory>\n\
         #include <string>\n#include <unordered_map>\n#include <vector>\n\
         template <int N> struct Item { std::string name; double value; bool operator<(const Item& o) const \
         { return value < o.value; } };\n",
    );
    for i in 0..count {
        let _ = write!(
            text,
            "double use{i}(const std::vector<std::string>& names) {{\n  \
             std::map<std::string, std::vector<Item<{i}>>> groups;\n  \
             std::unordered_map<int, std::shared_ptr<Item<{i}>>> index;\n  \
             for (const auto& name : names) {{\n    groups[name].push_back({{name, name.size() * {i}.5}});\n    \
             index.emplace((int)name.size(), std::make_shared<Item<{i}>>(groups[name].back()));\n  }}\n  \
             double sum = 0;\n  std::function<double(const Item<{i}>&)> weigh = [&](const Item<{i}>& item) \
             {{ return item.value * sum; }};\n  for (auto& [name, items] : groups) {{\n    \
             std::sort(items.begin(), items.end());\n    for (auto& item : items) sum += weigh(item);\n  }}\n  \
             return sum + index.size();\n}}\n"
        );
    }
    text
}

/// A Rust library of `count` types with derived and generic code.
fn rust_source(count: u32) -> String {
    let mut text = String::from("use std::collections::{BTreeMap, HashMap};\n");
    for i in 0..count {
        let _ = write!(
            text,
            "#[derive(Clone, Debug, Default, PartialEq, PartialOrd)]\npub struct Item{i} {{ pub name: String, pub \
             value: f64, pub tags: Vec<String>, pub next: Option<Box<Item{i}>> }}\n\
             impl Item{i} {{\n    pub fn group(items: &[Item{i}]) -> BTreeMap<String, Vec<Item{i}>> {{\n        \
             let mut groups: BTreeMap<String, Vec<Item{i}>> = BTreeMap::new();\n        \
             for item in items {{ groups.entry(item.name.clone()).or_default().push(item.clone()); }}\n        groups\n    }}\n    \
             pub fn index(items: &[Item{i}]) -> HashMap<&str, f64> {{\n        \
             items.iter().filter(|item| item.value > {i}.0).map(|item| (item.name.as_str(), item.value)).collect()\n    }}\n}}\n"
        );
    }
    text
}

/// `holes` + 1 pigeons in `holes` holes, which a solver has to refute by search.
fn pigeonhole(holes: u32) -> String {
    let mut text = String::from("(set-logic QF_UF)\n");
    let is_in = |pigeon: u32, hole: u32| format!("p{pigeon}_{hole}");
    for pigeon in 0..=holes {
        for hole in 0..holes {
            let _ = writeln!(text, "(declare-const {} Bool)", is_in(pigeon, hole));
        }
    }
    for pigeon in 0..=holes {
        let places: Vec<String> = (0..holes).map(|hole| is_in(pigeon, hole)).collect();
        let _ = writeln!(text, "(assert (or {}))", places.join(" "));
    }
    for hole in 0..holes {
        for first in 0..=holes {
            for second in first + 1..=holes {
                let (one, other) = (is_in(first, hole), is_in(second, hole));
                let _ = writeln!(text, "(assert (or (not {one}) (not {other})))");
            }
        }
    }
    text.push_str("(check-sat)\n");
    text
}

/// `pages` pages of text and curves.
fn postscript(pages: u32) -> String {
    let mut text = format!("%!PS\n{POSTSCRIPT_BODY}");
    for page in 0..pages {
        let _ = writeln!(text, "/n {} def page", page * 131);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let read = || {
            Inputs::write(folder.path()).unwrap();
            let mut files: Vec<_> =
                std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            files.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
        };
        let first = read();
        assert_eq!(first, read());
        assert!(first.iter().all(|bytes| bytes.len() > 200));
    }
}
