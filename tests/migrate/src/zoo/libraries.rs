//! Libraries, C below most of them, that are suspended in their middle and go on elsewhere.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;

use mlua::{Function, Lua, Table, Value};
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::Run;
use crate::trip::{Seeded, mix, mix_bytes, step};

pub(super) const ALL: &[(&str, Run)] = &[
    ("zstd_streams", zstd_streams),
    ("lua_callbacks", lua_callbacks),
    ("lua_coroutines_and_errors", lua_coroutines_and_errors),
    ("sqlite_in_memory", sqlite_in_memory),
    ("sqlite_statement_open", sqlite_statement_open),
    ("regex_of_its_own", regex_of_its_own),
];

/// SQLite's global state belongs to the node (facts H3).
fn start_sqlite() {
    // SAFETY: may be called at any time, before any other thread uses SQLite.
    unsafe { rusqlite::ffi::sqlite3_initialize() };
}
migrt::on_node_start!(start_sqlite);

fn text(seed: u64, words: usize) -> String {
    let mut random = Seeded::new(seed);
    let mut text = String::new();
    for _ in 0..words {
        text.push_str(["one ", "two ", "three ", "fourteen ", "\n"][random.below(5) as usize]);
        text.push_str(&random.below(90).to_string());
    }
    text
}

/// A reader that takes a step each time it is asked.
struct Restless<'a>(&'a [u8]);

impl Read for Restless<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        step();
        let len = into.len().min(4096);
        self.0.read(&mut into[..len])
    }
}

fn zstd_streams(seed: u64) -> u64 {
    let plain = text(seed, 9000);
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
    for part in plain.as_bytes().chunks(9000) {
        encoder.write_all(part).expect("to memory");
        step();
    }
    let packed = encoder.finish().expect("to memory");
    step();
    let mut decoder = zstd::Decoder::new(Restless(&packed)).expect("a decoder");
    let mut back = String::new();
    decoder.read_to_string(&mut back).expect("what was packed");
    assert_eq!(back, plain);
    mix_bytes(0, &packed)
}

fn lua_callbacks(seed: u64) -> u64 {
    let lua = Lua::new();
    let calls = Rc::new(RefCell::new(0u64));
    let counted = Rc::clone(&calls);
    let rest = lua
        .create_function(move |_, n: i64| {
            *counted.borrow_mut() += 1;
            if n % 25 == 0 {
                step();
            }
            Ok(n * 2 + 1)
        })
        .expect("a function");
    lua.globals().set("rest", rest).expect("a global");
    lua.globals().set("seed", (seed % 1000) as i64).expect("a global");
    let result: String = lua
        .load(
            r#"
            local list = {}
            for i = 1, 200 do list[i] = (i * 7919 + seed) % 211 end
            table.sort(list, function(a, b) return rest(a) < rest(b) end)
            local parts = {}
            for i, v in ipairs(list) do parts[#parts + 1] = string.format("%d:%s", v, tostring(v / 3)) end
            return (table.concat(parts, ","):gsub("1", function(c) rest(25) return "<" .. c .. ">" end))
            "#,
        )
        .eval()
        .expect("the script runs");
    let calls = *calls.borrow();
    mix(mix_bytes(seed, result.as_bytes()), calls)
}

fn lua_coroutines_and_errors(seed: u64) -> u64 {
    let lua = Lua::new();
    let rest = lua
        .create_function(|_, n: Value| {
            step();
            match n {
                Value::Integer(n) if n % 3 == 0 => Err(mlua::Error::runtime(format!("no {n}"))),
                _ => Ok(()),
            }
        })
        .expect("a function");
    lua.globals().set("rest", rest).expect("a global");
    let table: Table = lua
        .load(
            r#"
            local log = {}
            local producer = coroutine.wrap(function()
                for i = 1, 12 do
                    local ok, why = pcall(rest, i)
                    coroutine.yield(ok and ("ok " .. i) or "failed")
                end
            end)
            for i = 1, 12 do log[i] = producer() end
            collectgarbage()
            local weak = setmetatable({}, { __mode = "k", __gc = function() end })
            weak[{}] = 1
            collectgarbage()
            log[13] = next(weak) == nil and "collected" or "kept"
            return log
            "#,
        )
        .eval()
        .expect("the script runs");
    step();
    let upper: Function = lua.load("return string.upper").eval().expect("a function");
    let mut sum = seed;
    for entry in table.sequence_values::<String>() {
        let entry: String = upper.call(entry.expect("a text")).expect("upper");
        sum = mix_bytes(sum, entry.as_bytes());
    }
    sum
}

fn sqlite_in_memory(seed: u64) -> u64 {
    let db = Connection::open_in_memory().expect("a database");
    let calls = RefCell::new(0u32);
    db.create_scalar_function("rest", 1, FunctionFlags::SQLITE_UTF8, move |context| {
        let calls = {
            let mut calls = calls.borrow_mut();
            *calls += 1;
            *calls
        };
        if calls.is_multiple_of(60) {
            step();
        }
        context.get::<i64>(0).map(|n| n * 3 % 101)
    })
    .expect("a function");
    db.execute_batch("create table t (id integer primary key, name text, value int); create index i on t (value);")
        .expect("a table");
    for n in 0..200i64 {
        db.execute(
            "insert into t (name, value) values (?1, rest(?2))",
            (format!("row {n}"), n * (seed as i64 % 13 + 1)),
        )
        .expect("a row");
    }
    step();
    let (count, sum): (i64, i64) = db
        .query_row(
            "select count(*), sum(rest(a.value) * b.id) from t a join t b on a.value = b.value where rest(b.id) > 20",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("a sum");
    step();
    mix(mix(seed, count as u64), sum as u64)
}

fn sqlite_statement_open(seed: u64) -> u64 {
    let mut db = Connection::open_in_memory().expect("a database");
    db.execute_batch("create table words (word text, n int)").expect("a table");
    let transaction = db.transaction().expect("a transaction");
    for (n, word) in text(seed, 300).split_whitespace().enumerate() {
        transaction.execute("insert into words values (?1, ?2)", (word, n as i64)).expect("a row");
        if n % 40 == 0 {
            step();
        }
    }
    transaction.commit().expect("committed");
    let mut statement = db
        .prepare("select word, count(*), max(n) from words group by word order by 2 desc, 1")
        .expect("a statement");
    let mut rows = statement.query([]).expect("rows");
    let mut sum = 0;
    let mut seen = 0;
    while let Some(row) = rows.next().expect("a row") {
        seen += 1;
        if seen % 20 == 0 {
            step();
        }
        let word: String = row.get(0).expect("a text");
        let count: i64 = row.get(1).expect("a number");
        let last: i64 = row.get(2).expect("a number");
        sum = mix(mix_bytes(sum, word.as_bytes()), (count * 100_000 + last) as u64);
    }
    sum
}

fn regex_of_its_own(seed: u64) -> u64 {
    let text = text(seed, 800);
    let re = regex::Regex::new(r"(?<word>[a-z]+) (?<number>\d+)").expect("a pattern");
    let mut sum = 0;
    for (n, found) in re.captures_iter(&text).enumerate() {
        if n % 60 == 0 {
            step();
        }
        sum = mix_bytes(sum, found["number"].as_bytes()) ^ found["word"].len() as u64;
    }
    let replaced = re.replace_all(&text, |found: &regex::Captures<'_>| {
        format!("{}-{}", &found["number"], &found["word"])
    });
    mix_bytes(sum, replaced.as_bytes())
}
