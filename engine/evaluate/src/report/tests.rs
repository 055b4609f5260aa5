use super::*;
use crate::comparison::tests::made_up;
use crate::{Change, Probe, ProbeExample, ProbeRate, RateAgainst, SampleRewrite, SystemProbes};
use querywright_data::cost::{CostConfig, Spent};
use querywright_data::metrics::rates::wilson;

/// Text that would break out of every place it is put, were it not escaped.
const NASTY: &str = "</pre></script><script>alert(1)</script>\"'&<b onload=x>";

/// The metrics of 60 steps.
fn metrics_lines() -> String {
    let wave = |i: u32| 0.3 + f64::from(i) / 150.0 + (f64::from(i * 7919 % 97) / 97.0 - 0.5) / 8.0;
    let mut lines = String::from("{\"step\":0,\"eval_nDCG@10\":0.31}\n");
    for i in 1..=60 {
        let eval = if i % 10 == 0 { format!(",\"eval_nDCG@10\":{}", wave(i) * 0.9) } else { String::new() };
        lines += &format!(
            "{{\"step\":{i},\"reward\":{},\"entropy\":{},\"kl\":{},\"completions/mean_length\":{},\"grad_norm\":{},\
             \"frac_reward_zero_std\":{},\"sampling/sampling_logp_difference/mean\":{},\"step_time\":{},\
             \"num_tokens\":{}{eval}}}\n",
            wave(i),
            1.9 - wave(i),
            f64::from(i) * 2e-5 * wave(i),
            9.0 + 4.0 * wave(i * 3),
            0.4 + wave(i * 5),
            0.6 - wave(i * 2) / 2.0,
            1e-6 * wave(i * 11),
            4.0 + wave(i * 13),
            i * 9000,
        );
    }
    lines
}

fn report(folder: &Path) -> Report {
    let metrics = folder.join("metrics.jsonl");
    std::fs::write(&metrics, metrics_lines()).unwrap();
    let raw: Vec<f64> = (0..300).map(|i| f64::from(i * 37 % 11) / 11.0 * 0.7).collect();
    let gain = |by: f64, every: usize| -> Vec<f64> {
        raw.iter().enumerate().map(|(i, v)| if i % every == 0 { (v + by).clamp(0.0, 1.0) } else { *v }).collect()
    };
    let systems = [
        made_up("raw", &raw),
        made_up("RM3", &gain(0.05, 7)),
        made_up("zero-shot <0>", &gain(-0.3, 2)),
        made_up("trained", &gain(0.35, 2)),
    ];
    let sample = |query: &str, texts: [(&str, f64); 3]| Sample {
        query: query.into(),
        rewrites: ["raw", "zero-shot <0>", "trained"]
            .into_iter()
            .zip(texts)
            .map(|(system, (text, score))| SampleRewrite { system: system.into(), text: text.into(), score })
            .collect(),
    };
    let change = |query: &str, rewrite: &str, before: f64, after: f64| Change {
        query: query.into(),
        rewrite: rewrite.into(),
        before,
        after,
    };
    Report {
        title: format!("Demonstration {NASTY}"),
        subtitle: "smollm2-135m learns from bm25 over 1,500 products".into(),
        metrics: Some(metrics),
        comparison: Some(Comparison::of(&systems, "trained").unwrap().with_alias("shipped", "trained").unwrap()),
        changes: Some(Changes {
            system: "trained".into(),
            against: "raw".into(),
            measure: "nDCG@10".parse().unwrap(),
            queries: 300,
            improved: 150,
            hurt: 30,
            most_improved: vec![change("quiet fan", "tower fan low noise", 0.2, 0.9)],
            most_hurt: vec![change(NASTY, NASTY, 0.9, 0.125)],
        }),
        headroom: None,
        probes: Some(probes()),
        cost: Some(CostTable::of("trained <1>", NASTY, &Spent::default(), &CostConfig::default(), None)),
        samples: vec![
            sample(
                "something to keep my coffee warm on the train",
                [
                    ("something to keep my coffee warm on the train", 0.0),
                    ("Here is a rewritten query: coffee warm train", 0.12),
                    ("vacuum insulated travel mug stainless steel leakproof lid", 0.87),
                ],
            ),
            sample("shoes for rain", [("shoes for rain", 0.5), (NASTY, 0.5), ("waterproof boots gore-tex", 0.5)]),
            sample("quiet fan", [("quiet fan", 0.66), ("fan", 0.4), ("tower fan low noise", 0.31)]),
        ],
        config: Some(format!("[model]\nname = \"smollm2-135m\" # {NASTY}\n\n[data]\nname = \"demo\"\n")),
        versions: vec![("querywright".into(), "0.1.0".into()), ("catalogue digest".into(), "9f".repeat(32))],
    }
}

/// Two systems, of which the second copies.
fn probes() -> Probes {
    let rates = |count: usize, against: bool| {
        let example = ProbeExample { query: NASTY.into(), rewrite: NASTY.into(), found: "tower fan low noise".into() };
        let rate = wilson(count, 300).unwrap();
        let p_holm = 0.01;
        let against = against.then_some(RateAgainst { difference: 0.1, gained: 30, lost: 0, p: 0.001, p_holm });
        vec![ProbeRate { probe: Probe::CopyFound, count, rate, against, examples: vec![example] }]
    };
    let systems = vec![
        SystemProbes { system: "zero-shot <0>".into(), rates: rates(0, false) },
        SystemProbes { system: "trained".into(), rates: rates(30, true) },
    ];
    Probes { queries: 300, against: Some("zero-shot <0>".into()), systems }
}

/// Every element that is opened is closed, in order.
fn assert_balanced(markup: &str) {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    for part in markup.split('<').skip(1) {
        let (tag, _) = part.split_once('>').expect("a tag ends");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closes what is open: {tag}");
        } else if !tag.ends_with('/') && !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_page_stands_alone_and_escapes_everything() {
    let folder = tempfile::tempdir().unwrap();
    let html = report(folder.path()).html().unwrap();
    assert_balanced(&html);
    assert!(!html.contains("<script") && !html.contains("onload=x>"), "{html}");
    assert!(!html.contains("http") && !html.contains("url(") && !html.contains("@import"), "{html}");
    for part in [
        "prefers-color-scheme:dark",
        "waterproof boots gore-tex",
        "zero-shot &lt;0&gt;",
        "60 steps, 540k tokens",
        "<th>shipped = trained</th>",
        "150 better (50%), 30 hurt (10%).</p>",
        "<h3>Hurt most</h3>",
        "<dd class=\"score worse\">0.125</dd>",
        "<td class=\"worse\">10.0%<small>[7.1, 13.9]; +10.0 points, p 0.0100</small></td>",
        "<dd>tower fan low noise</dd>",
        "<tr><th>trained &lt;1&gt;</th>",
        "<td>about 210 s</td>",
    ] {
        assert!(html.contains(part), "{part}: {html}");
    }
    for title in ["Reward", "Entropy", "KL from", "Length", "Gradient", "Zero-variance groups", "Sampling", "Time"] {
        assert!(html.contains(&format!("<text class=\"title\" x=\"12\" y=\"24\">{title}")), "{title}");
    }
}

#[test]
fn a_folder_receives_the_page_and_the_curves() {
    let folder = tempfile::tempdir().unwrap();
    // To look at the page, set QUERYWRIGHT_REPORT to a folder to write it to.
    let out = std::env::var_os("QUERYWRIGHT_REPORT").map_or_else(|| folder.path().join("a/b"), PathBuf::from);
    let page = report(folder.path()).write(&out).unwrap();
    assert_eq!(page, out.join("index.html"));
    let curves = std::fs::read_to_string(out.join("curves.svg")).unwrap();
    assert_balanced(&curves);
    assert!(curves.starts_with("<svg xmlns="));
}

#[test]
fn a_report_of_nothing_is_a_page_with_a_heading() {
    let html = Report { title: "Empty".into(), ..Report::default() }.html().unwrap();
    assert_balanced(&html);
    assert!(html.contains("<h1>Empty</h1>") && !html.contains("<h2>"), "{html}");
}
