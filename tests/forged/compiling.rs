//! Components that take long to compile, or would: refused before that, or compiled within seconds.

use super::*;

#[test]
fn a_component_that_is_slow_to_compile_is_refused_in_time() {
    let sums = |count: usize| "local.get 0 local.get 1 i32.mul local.set 0\n".repeat(count);
    let fields = |count: usize| format!("(func (export \"slow\") (param i32 i32) {})", sums(count));
    let long = Forged { fields: fields(150_000), ..Forged::default() };
    let refused = long.plugin().map(|_| ()).unwrap_err();
    assert!(refused.contains("1048576 are allowed"), "{refused}");
    let options = PluginOptions {
        grant: Grant { limits: Limits { compile_ms: 1, ..limits() }, ..Grant::default() },
        ..PluginOptions::default()
    };
    let slow = Forged { fields: fields(20_000), ..Forged::default() }.bytes();
    let begun = Instant::now();
    let refused = Plugin::from_bytes("forged", &slow, &catalog(), options, &()).unwrap_err().to_string();
    assert!(refused.contains("limits.compile_ms = 1"), "{refused}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Functions that Cranelift takes long over, for their size.
mod bomb {
    fn locals(count: usize) -> String {
        format!("(local{})", " i32".repeat(count))
    }

    /// `count` loops inside each other around a use of every local.
    pub fn nested_loops(of_locals: usize, count: usize) -> String {
        let uses: String = (1..=of_locals).map(|local| format!("local.get {local} drop\n")).collect();
        let (open, close) = ("loop\n".repeat(count), "local.get 0 br_if 0 end\n".repeat(count));
        format!("(func (param i32) {} {open} {uses} {close})", locals(of_locals))
    }

    /// Loops one after the other between the definition and the use of every local.
    pub fn loops(of_locals: usize, count: usize) -> String {
        let sets: String = (1..=of_locals).map(|local| format!("local.get 0 local.set {local}\n")).collect();
        let uses: String = (1..=of_locals).map(|local| format!("local.get {local} drop\n")).collect();
        let loops = "loop local.get 0 br_if 0 end\n".repeat(count);
        format!("(func (param i32) {} {sets} {loops} {uses})", locals(of_locals))
    }

    /// Blocks that take and give `values` values.
    pub fn wide_blocks(kind: &str, values: usize, count: usize) -> String {
        let list = " i32".repeat(values);
        let block = format!("{kind} (param{list}) (result{list}) end\n");
        let (push, pop) = ("local.get 0 ".repeat(values), "drop ".repeat(values));
        format!("(func (param i32) {push} {} {pop})", block.repeat(count))
    }

    /// Calls through a table.
    pub fn calls(count: usize) -> String {
        format!("(table 1 funcref) (func (param i32) {})", "local.get 0 call_indirect\n".repeat(count))
    }
}

#[test]
fn a_compile_bomb_is_refused_before_it_is_compiled_with_its_function_and_the_limit() {
    for (what, fields, part) in [
        ("nested loops", bomb::nested_loops(1000, 1000), "(1001 locals, 2000 branches)"),
        ("loops in sequence", bomb::loops(1000, 1000), "a quarter of limits.compile_work = 12000 is allowed"),
        ("loops without a local", bomb::loops(0, 10_000), "a quarter of limits.compile_work"),
        ("blocks of many values", bomb::wide_blocks("block", 100, 100), "a quarter of limits.compile_work"),
        ("loops of many values", bomb::wide_blocks("loop", 100, 100), "a quarter of limits.compile_work"),
        ("calls through a table", bomb::calls(10_000), "a quarter of limits.compile_work"),
        ("functions", "(func)".repeat(60_000), "ms to compile, and limits.compile_work = 12000"),
        ("signatures", "(type (func (param i32)))".repeat(30_000), "ms to compile, and limits.compile_work = 12000"),
    ] {
        let bytes = Forged { fields, ..Forged::default() }.bytes();
        let begun = Instant::now();
        let refused = plugin(&bytes).map(|_| ()).unwrap_err();
        assert!(refused.contains(part), "{what}: {refused}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{what}: {:?}", begun.elapsed());
    }
    // A limit that was raised on both sides lets it through.
    let raised = Limits { compile_work: 120_000, ..limits() };
    let options = PluginOptions { grant: Grant { limits: raised, ..Grant::default() }, ..PluginOptions::default() };
    let bytes = Forged { fields: bomb::loops(0, 4_000), ..Forged::default() }.bytes();
    assert!(plugin(&bytes).map(|_| ()).unwrap_err().contains("limits.compile_work"));
    Plugin::from_bytes("forged", &bytes, &catalog(), options, &()).unwrap();
}

#[test]
fn the_worst_that_is_accepted_compiles_within_seconds_and_some_hundred_megabytes() {
    /// The most memory that this process has had, in MiB.
    fn peak() -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib >> 10)
    }
    // Each function is just below the quarter that it may take, and there are as many as the whole allows.
    for (what, function, count) in [
        ("nested loops", bomb::nested_loops(40, 160), 4),
        ("loops in sequence", bomb::loops(100, 1000), 4),
        ("loops without a local", bomb::loops(0, 3_200), 4),
        ("loops of some values", bomb::wide_blocks("loop", 30, 115), 4),
        // One: each brings a table of its own, and a module has one.
        ("calls through a table", bomb::calls(3_600), 1),
        ("functions", "(func)".repeat(42_000), 1),
    ] {
        let bytes = Forged { fields: function.repeat(count), ..Forged::default() }.bytes();
        let begun = Instant::now();
        let loaded = plugin(&bytes);
        let took = begun.elapsed();
        println!("{what}: {} KiB in {took:?}, peak {:?} MiB", bytes.len() >> 10, peak());
        assert!(ask(&loaded.unwrap_or_else(|refused| panic!("{what}: {refused}"))).is_ok(), "{what}");
        // It is compiled twice, for loading and for serving. Other tests run in this process at the same time.
        assert!(took < Duration::from_secs(40), "{what}: {took:?}");
    }
    assert!(peak().is_none_or(|mib| mib < 4 << 10), "{:?} MiB", peak());
}

/// A component with another section at its end.
fn with_section(mut component: Vec<u8>, id: u8, content: &[u8]) -> Vec<u8> {
    component.push(id);
    let mut length = content.len();
    while length > 127 {
        component.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    component.push(length as u8);
    component.extend_from_slice(content);
    component
}

#[test]
fn modules_that_are_never_instantiated_are_refused() {
    let bytes = with_section(Forged::default().bytes(), 1, &wat::parse_str("(module (func) (func))").unwrap());
    let refused = plugin(&bytes).map(|_| ()).unwrap_err();
    assert!(refused.contains("is never instantiated"), "{refused}");
}
