//! Limits, and what a template may say.

use minijinja::context;

use super::*;

fn render(text: &str) -> Result<String, TemplateError> {
    Template::new("test", text, Style::Chat)?.render(&context! { messages => [context! { content => "tea pot" }] })
}

fn said(text: &str) -> String {
    render(text).expect_err(text).to_string()
}

#[test]
fn whatever_grows_is_stopped() {
    let doubled =
        |step: &str| format!("{{% set ns = namespace(x='ab') %}}{{% for i in range(60) %}}{step}{{% endfor %}}");
    for step in [
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{0}{0}'.format(ns.x) %}",
        "{% set ns.x = [ns.x, ns.x] | join %}",
        "{% set ns.x = ns.x.replace('ab', 'abab') %}",
        "{% set ns.x = ns.x | replace('ab', 'abab') %}",
        "{% set ns.x = ns.x.join(['', ns.x, '']) %}",
        "{% set ns.x = [ns.x, ns.x] %}",
        "{% set ns.x = {'a': ns.x, 'b': ns.x} %}",
        "{% set ns.x = dict(a=ns.x, b=ns.x) %}",
        "{% set ns.x = ([ns.x] + [ns.x]) | list %}",
        "{% set ns.x = ns.x.center(ns.x | length * 2) %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set ns.x %}a{{ ns.x }}{{ ns.x }}{% endset %}",
        "{% set ns.x = ns.x | tojson | tojson %}",
    ] {
        let said = said(&doubled(step));
        assert!(said.contains("too large") || said.contains("deep"), "{step}: {said}");
    }
}

#[test]
fn what_is_wide_or_long_at_once_is_refused() {
    for text in [
        "{{ 'ab' * 1000000 }}",
        "{{ (('ab' * 1000) * 1000) * 1000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.rjust(999999999) }}",
        "{{ '\\t'.expandtabs(9999999999) }}",
        "{{ 'a' | indent(999999999) }}",
        "{{ [1] | batch(999999999, 'x') | list }}",
        "{{ [1] | slice(999999999) | list }}",
        "{{ ('a' * 200).join(range(100000)) }}",
        "{{ ([1] * 99999) | map('string') | join('a' * 200) }}",
    ] {
        assert!(said(text).contains("too large"), "{text}: {}", said(text));
    }
    assert_eq!(said("{{ 'x'.count('') }}{{ raise_exception('after') }}"), "after (line 1 of the template)");
}

#[test]
fn what_walks_long_values_again_and_again_is_stopped() {
    for step in [
        "{% if -1 in l %}{% endif %}",
        "{% if 'b' in t %}{% endif %}",
        "{% if l == k %}{% endif %}",
        "{% if l != k %}{% endif %}",
        "{% if l < k %}{% endif %}",
        "{% if l >= k %}{% endif %}",
        "{% if l is eq(k) %}{% endif %}",
        "{% if -1 is in(l) %}{% endif %}",
        "{% if t is lower %}{% endif %}",
        "{% if l is eq(*[k]) %}{% endif %}",
        "{% set x = l | sum %}",
        "{% set x = l | max %}",
        "{% set x = l | unique | first %}",
        "{% set x = l | select('in', [-1]) | first %}",
        "{% set x = l | sort | first %}",
        "{% set x = l.count(-1) %}",
        "{% set x = t.count('b') %}",
        "{% set x = t.startswith(t) %}",
        "{% set x = t | trim | length %}",
        "{% set x = t | int(default=0) %}",
    ] {
        let text = format!(
            "{{% set l = range(99999) | list %}}{{% set k = range(99999) | list %}}{{% set t = 'a' * 200000 %}}\
             {{% for i in range(9999) %}}{step}{{% endfor %}}"
        );
        assert!(said(&text).contains("too large"), "{step}: {}", said(&text));
    }
    for at_once in ["l | select('in', l)", "l | rejectattr('x', 'in', l)", "l | map('default', l)"] {
        let text = format!("{{% set l = range(99999) | list %}}{{{{ {at_once} | first }}}}");
        assert!(said(&text).contains("too large"), "{at_once}: {}", said(&text));
    }
}

#[test]
fn endless_loops_and_recursion_end_in_an_error() {
    let loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i %}{% endfor %}{% endfor %}";
    assert!(said(loops).contains("too many steps"), "{}", said(loops));
    let raw = format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "x".repeat(9999));
    assert!(said(&raw).contains("too large"), "{}", said(&raw));
    assert!(said("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}").contains("recursion"));
    assert!(said("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}").contains("recursion"));
    let knot = "{% set a = namespace() %}{% set a.x = [a] %}{{ a }}";
    assert!(said(knot).contains("cannot be kept in a namespace"), "{}", said(knot));
    assert!(said("{% set a = namespace() %}{% set b = namespace(y=a) %}{% set a.x = b %}").contains("namespace"));
}

#[test]
fn what_nests_without_end_is_refused_before_it_overflows_the_stack() {
    let many = |part: &str| part.repeat(99_999);
    for text in [
        many("{% if a %}"),
        format!("{{% if a %}}{}", many("{% elif a %}")),
        format!("{{{{ a{} }}}}", many(".a")),
        format!("{{{{ a{} }}}}", many("+a")),
        format!("{{{{ {}a }}}}", many("not ")),
        format!("{{{{ {}a }}}}", many("(")),
        format!("{{{{ {}a }}}}", many("[")),
        many("{% set x %}"),
        many("{% set x | f(a=1) %}"),
        many("x"),
    ] {
        for part in [text.as_str(), text.get(..text.len().min(200_000)).unwrap()] {
            let done = Template::new("test", part, Style::Chat).map(drop);
            assert!(done.is_err() || part.starts_with('x'), "{part:.20}");
        }
    }
}

#[test]
fn what_the_limits_allow_does_not_overflow_the_stack() {
    let nested = format!("{}x{}", "{% if true %}".repeat(60), "{% endif %}".repeat(60));
    assert_eq!(render(&nested).unwrap(), "x");
    let chain = format!("{{{{ 1{} }}}}", "+1".repeat(900));
    assert_eq!(render(&chain).unwrap(), "901");
    let macros = "{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(9) }}";
    assert_eq!(render(macros).unwrap(), "9876543210");
    let list = format!("{{% set x = 'a' %}}{}{{{{ x }}}}", "{% set x = [x] %}".repeat(60));
    assert_eq!(render(&list).unwrap().len(), 60 * 2 + 3);
}

#[test]
fn loops_branches_and_recursion_work_in_guarded_instructions() {
    let text = "{% for i in range(4) if i != 2 %}{% if i == 1 %}{% continue %}{% endif %}<{{ i }}>{% else %}none{% endfor %}\
                {% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}\
                {{ 1 if messages and messages[0].content or false else 2 }}{{ 0 or 'b' }}\
                {% macro m(a, b='d') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b='e') }}{{ m(*[1, 2]) }}\
                {% set q %}captured {{ 1 + 1 }}{% endset %}{{ q | upper }}{% filter upper %}f{{ 1 }}{% endfilter %}\
                {% with z = 5 %}{{ z }}{% endwith %}{{ 1 < 2 < 3 }}{% raw %}{{ raw }}{% endraw %}";
    let right = "<0><3>(1(2))31b1d1e12CAPTURED 2F15True{{ raw }}";
    assert_eq!(render(text).unwrap(), right);
}

#[test]
fn a_prompt_template_is_strict_and_its_macros_are_called() {
    let text = "{% macro request(q) %}Q {{ q.text | json }}{% endmacro %}{% macro bad() %}{{ nothing }}{% endmacro %}";
    let template = Template::new("prompt", text, Style::Prompt).unwrap();
    let values = context! {};
    let query = context! { text => "a \"b\" <c>" };
    assert_eq!(template.call(&values, "request", &[query]).unwrap(), "Q \"a \\\"b\\\" <c>\"");
    assert!(template.call(&values, "bad", &[]).unwrap_err().message.contains("undefined"));
    assert!(template.call(&values, "none", &[]).unwrap_err().message.contains("macro not found"));
}

#[test]
fn a_template_sees_no_file_and_no_other_template() {
    for text in ["{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{{ debug() }}"] {
        assert!(render(text).is_err(), "{text}");
    }
}
