//! The skills as a table.

use std::fmt::Write;

use super::{Skills, SystemSkills};
use crate::changes::one_line;
use crate::table::probability;
use querywright_data::metrics::significance::Interval;

impl Skills {
    /// Tables and what was lost, for a terminal.
    pub fn text(&self) -> String {
        let Self { requests, passages, systems } = self;
        let mut out = format!("skills: {requests} requests with a constraint, {passages} passages of general text\n");
        let width = systems.iter().map(|system| system.system.chars().count()).max().unwrap_or(0).max(6);
        let _ = writeln!(out, "{:width$}  {:>20}  {:>9}  {:>10}", "system", "constraints met", "cut off", "perplexity");
        for system in systems {
            let SystemSkills { system, followed, cut_off, perplexity, .. } = system;
            let _ = writeln!(out, "{system:width$}  {:>20}  {cut_off:>9}  {perplexity:>10.2}", percent(followed));
        }
        for system in systems {
            out.push_str(&against(system));
        }
        out.push_str(&self.kinds());
        out.push_str(
            "in brackets 95% intervals; p by McNemar's exact test and Fisher's randomisation test, two-sided, corrected by \
             Holm\n",
        );
        out
    }

    /// How many constraints of each kind every system met.
    fn kinds(&self) -> String {
        let mut out = String::from("\nby kind, in the order of the systems\n");
        for kind in self.systems.first().into_iter().flat_map(|base| base.kinds.keys()) {
            let of = |system: &SystemSkills| {
                let (met, of) = system.kinds.get(kind).copied().unwrap_or_default();
                format!("{met}/{of}")
            };
            let shown: Vec<String> = self.systems.iter().map(of).collect();
            let _ = writeln!(out, "  {kind:<24} {}", shown.join("  "));
        }
        out
    }
}

fn against(system: &SystemSkills) -> String {
    let Some(against) = &system.against else { return String::new() };
    let mut out = format!(
        "\n{} against the base\n  constraints: {} gained, {} lost, p {}\n  loss on general text: {} nats a token, p {}\n  \
         KL from the base: {} nats a token\n",
        system.system,
        against.gained,
        against.lost,
        probability(against.followed_p),
        signed(&against.loss),
        probability(against.loss_p),
        signed(&against.kl),
    );
    for lost in &against.examples {
        let [request, base, own] = [&lost.request, &lost.base, &lost.system].map(|text| one_line(text));
        let _ = writeln!(out, "  lost: {request}\n    before: {base}\n    after:  {own}");
    }
    out
}

fn percent(rate: &Interval) -> String {
    format!("{:.1}% [{:.1}, {:.1}]", 100.0 * rate.mean, 100.0 * rate.low, 100.0 * rate.high)
}

fn signed(interval: &Interval) -> String {
    format!("{:+.4} [{:+.4}, {:+.4}]", interval.mean, interval.low, interval.high)
}
