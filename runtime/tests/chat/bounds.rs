//! Whatever a template is: text or a sentence, within time, memory and stack.

use std::time::{Duration, Instant};

use hyc_runtime::Message;

use super::render;

/// What a template does with a short message.
fn outcome(template: &str) -> Result<String, String> {
    let start = Instant::now();
    let result = render(template, &[Message::new("user", "x")], true);
    let begin: String = template.chars().take(60).collect();
    assert!(start.elapsed() < Duration::from_secs(20), "{begin}: {:?}", start.elapsed());
    if let Err(words) = &result {
        assert!(words.contains("chat template") && words.len() < 1000, "{begin}: {words}");
    }
    result
}

#[test]
fn chains_of_a_template_are_as_deep_as_it_is_long() {
    for (before, part, after) in [
        ("{{ ", "-", "1 }}"),
        ("{{ 1", "+1", " }}"),
        ("{{ 1", "~1", " }}"),
        ("{{ 1", "**1", " }}"),
        ("{{ a", ".a", " }}"),
        ("{{ a", "|e", " }}"),
        ("{{ a", "[0]", " }}"),
        ("{{ a", "()", " }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ a", " is a", " }}"),
        ("{{ 1", " and 1", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{{ 1", "<1", " }}"),
        ("{{ a", " in a", " }}"),
        ("{{ ", "(", "1 }}"),
        ("{{ ", "[", "1 }}"),
        ("{{ ", "{1:", "1 }}"),
        ("{% if a %}", "{% elif a %}", "{% endif %}"),
        ("", "{% if a %}", ""),
        ("", "{% for a in b %}", ""),
        ("{% set a", ".a", " = 1 %}"),
    ] {
        for count in [1000, 60_000 / part.len()] {
            let _ = outcome(&format!("{before}{}{after}", part.repeat(count)));
        }
    }
    let error = outcome(&" ".repeat(300_000)).unwrap_err();
    assert!(error.contains("300000 bytes"), "{error}");
}

/// What makes a value as deep as it can be with a template's steps, and what is done with it.
#[test]
fn values_may_be_deep() {
    let deep = [
        "{% set ns = namespace(x=1) %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for a in range(N) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for a in range(N) %}{% set ns.x = {1: ns.x} %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(N) %}{% set ns.x = ns.x + [1] %}{% endfor %}",
        "{% set ns = namespace(x={}) %}{% for a in range(N) %}{% set ns.x = dict(ns.x, a=1) %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for a in range(K) %}{% set ns.x = [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\
         ns.x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]] %}{% endfor %}",
    ];
    let uses = [
        "",
        "{{ ns.x }}",
        "{{ ns.x | tojson }}",
        "{{ ns.x | string }}",
        "{{ ns.x | pprint | length }}",
        "{{ ns.x == ns.x }}",
        "{% set y = ns.x %}{{ [y] == [ns.x] }}",
        "{{ ns.x ~ 1 }}",
        "{{ '{}'.format(ns.x) }}",
        "{{ ', '.join(ns.x) }}",
        "{{ ns.x | list | length }}",
        "{{ {ns.x: 1} | length }}",
        "{{ [ns.x, ns.x] | sort }}",
        "{{ [ns.x, ns.x] | unique | list | length }}",
    ];
    for make in deep {
        for then in uses {
            let make = make.replace('N', "6000").replace('K', "1000");
            let _ = outcome(&format!("{make}{then}"));
        }
    }
}

#[test]
fn text_has_bounds() {
    for template in [
        "{{ '{:9999999999}'.format(1) }}",
        "{{ '{:€>9999999999}'.format(1) }}",
        "{{ '{:.9999999999f}'.format(1.5) }}",
        "{{ '%9999999999d' | format(1) }}",
        "{{ 'a'.center(9999999999) }}",
        "{{ 'a' * 99999999 }}",
        "{{ ('a' * 9999).replace('', 'a' * 9999) }}",
        "{{ ('a' * 9999).join(range(9999)) }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for a in range(60) %}{% set ns.s = '{0}{0}'.format(ns.s) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ '{}'.format(ns.x) }}",
        "{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ''.join(ns.x) }}",
    ] {
        assert!(outcome(template).is_err(), "{template}");
    }
    assert_eq!(
        outcome("{{ '{:>4}|{}'.format(1, [2]) }}{{ ', '.join(['a', 'b']) }}").unwrap(),
        "   1|[2]a, b"
    );
}

#[test]
fn a_long_conversation_has_the_steps_that_it_needs() {
    let template = "{% for m in messages %}{% set text = m.content | trim | replace('a', 'b') %}{{ text.strip() }}\
        {{ m | tojson }}{% for part in text.split('x') %}{{ part ~ '' }}{% endfor %}{% endfor %}";
    let messages: Vec<Message> = (0..1500).map(|_| Message::new("user", "axaxa xx".repeat(15))).collect();
    assert!(render(template, &messages, true).unwrap().len() > 250_000);
    let long = [Message::new("user", "A long story. ".repeat(300_000))];
    assert!(render(template, &long, true).unwrap().len() > 9_000_000);
}
