"""What jinja2 makes of templates: golden values for engine/template, in the environment that transformers makes for chats.

    python jinja.py tests/golden                      # chat-jinja2.json
    python jinja.py FOLDER OUT.json                   # the same of all *.jinja in a folder, to compare with real ones
"""
import json, os, sys
from datetime import datetime

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MESSAGES = [
    {"role": "system", "content": "  Be \"brief\" <now> x "},
    {"role": "user", "content": "the quick\nbrown fox"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nit jumps"},
    {"role": "user", "content": "naïve 日本"},
]

TEMPLATES = [
    # % and format
    "{{ 'a %s b' % 'x' }}|{{ '%s-%d' % ('y', 3) }}|{{ '%05.1f|%x|%%' % (2.25, 255) }}|{{ '%(a)s' % {'a': 1} }}",
    "{{ 7 % 3 }}{{ 2 * 7 % 4 }}{{ 10 - 7 % 4 }}{{ '%s' % messages | length }}",
    "{{ '{} {}'.format(1, 'b') }}{{ '{x:>5}|{0}'.format('z', x=3) }}",
    # tojson
    "{{ {'b': 1, 'a': [1, 2.5, none, true, 'é\"\\n']} | tojson }}",
    "{{ {'b': 1, 'a': {'z': 1, 'y': 2}} | tojson(sort_keys=true) }}",
    "{{ {'b': [1, 2], 'a': {}} | tojson(separators=(',', ':')) }}|{{ [1, [2]] | tojson(separators=[' , ', ' : ']) }}",
    "{{ {'b': [1, {'c': []}], 'a': 'é'} | tojson(indent=4, ensure_ascii=true) }}",
    "{{ {'b': [1, 2]} | tojson(indent=2, separators=(';', '=')) }}{{ '😀<&>' | tojson(ensure_ascii=True) }}{{ '<&>' | tojson }}",
    "{{ messages[0] | tojson }}{{ messages | tojson(indent=1) }}{{ 'x' | tojson(true) }}{{ {1: 2} | tojson }}",
    # tests
    "{{ raise_exception is callable }}{{ 'x' is callable }}{{ messages is callable }}{% macro m() %}{% endmacro %}{{ m is callable }}",
    "{{ 'x' is string }}{{ {} is mapping }}{{ [] is sequence }}{{ 1 is number }}{{ none is none }}{{ x is defined }}{{ 'x' is iterable }}{{ none is iterable }}{{ 1 is iterable }}{{ 'x' is sequence }}{{ {} is sequence }}{{ none is sequence }}",
    "{{ true is boolean }}{{ 3 is odd }}{{ 4 is divisibleby 2 }}{{ 2 is in [1, 2] }}{{ 'A' is upper }}{{ 1.5 is float }}{{ 1 is integer }}",
    # methods of texts
    "{{ 'a=b=c'.partition('=') | list }}{{ 'a=b=c'.rpartition('=') | join(' ') }}{{ 'abc'.partition('=')[0] }}{{ 'abc'.rpartition('=')[2] }}",
    "{{ 'user: x'.removeprefix('user: ') }}{{ 'x.py'.removesuffix('.py') }}{{ 'x'.removeprefix('y') }}",
    "{{ 'a b  c'.split() }}{{ ' a b  c '.split(none, 1) }}{{ 'a,b,c'.split(',', 1) }}{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b c '.rsplit(none, 1) }}{{ ' a '.split(none, 1) }}{{ ' a b '.rsplit() }}{{ 'a b c'.rsplit(none, 0) }}",
    "{{ 'a,b,c'.split(',', maxsplit=1) }}{{ 'a,b'.split(sep=',') }}{{ ''.split() }}{{ ''.split(',') }}{{ 'a\\nb\\r\\nc\\n'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}",
    "{{ 'naïve日本'.find('日') }}{{ 'abcabc'.rfind('c') }}{{ 'abc'.find('z') }}{{ 'abcabc'.find('a', 1) }}{{ 'abc'.index('b') }}{{ 'aXbXc'.count('X') }}",
    "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '*') }}|{{ 'ab'.center(5, '-') }}|{{ 'abc'.center(6, '-') }}|{{ 'a\\tb'.expandtabs(4) }}",
    "{{ 'aB'.swapcase() }}{{ 'STRASSE ß'.casefold() }}{{ 'a b'.title() }}{{ 'aBC d'.capitalize() }}{{ 'aB'.upper() }}{{ 'aB'.lower() }}",
    "{{ ''.isalpha() }}{{ 'a1'.isalnum() }}{{ 'Ab'.isupper() }}{{ 'ab1'.islower() }}{{ ' '.isspace() }}{{ '1'.isdigit() }}{{ 'a_1'.isidentifier() }}{{ 'é'.isascii() }}",
    "{{ 'abc'.startswith(('x', 'a')) }}{{ 'abc'.endswith('c') }}{{ 'abc'.startswith('b', 1) }}{{ 'xxaxx'.strip('x') }}{{ 'a-b-c'.replace('-', '+', 1) }}{{ ', '.join(['a', 'b']) }}",
    "{{ 'abc'[0] }}{{ 'abc'[-1] }}{{ 'abc'[1:] }}{{ 'abcdef'[::2] }}{{ 'abc'[::-1] }}{{ 'x' in 'xyz' }}{{ 'ab' * 2 }}{{ '-' * 0 }}|{{ 'a' ~ 1 ~ none ~ true }}",
    # dicts and lists
    "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'b': 1, 'a': 2} }}{{ {'a': 1}.get('z', 'd') }}{{ {'b': 1}.keys() | list }}{{ {'b': 1}.values() | list }}",
    "{{ ['a', 1, none, True, 1.0, ['b'], {'c': \"it's\"}] }}{{ [1, 2].index(2) }}{{ [1, 1].count(1) }}{{ [1] + [2] }}{{ [1, 2, 3][1:] }}{{ [1, 2, 3][-1] }}{{ (1, 2)[0] }}",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}{{ v }}{% endfor %}{% for k, v in {'b': 1, 'a': 2} | items %}{{ k }}{{ v }}{% endfor %}{{ dict(b=1, a=2) }}{{ [3, 1, 2] | sort }}{{ [1, 2] | sum }}{{ [1, 2, 1] | unique | list }}",
    "{{ [{'n': 'a', 'v': 1}, {'n': 'b', 'v': 2}] | map(attribute='n') | join(', ') }}{{ [{'n': 1}] | join('', attribute='n') }}{{ ['a', 'b'] | map('upper') | list }}",
    "{{ messages | selectattr('role', 'ne', 'user') | map(attribute='content') | first }}{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}{{ messages | groupby('role') | length }}",
    "{{ [1, 2, 3, 4] | batch(2) | list }}{{ [1, 2, 3] | reverse | list }}{{ 'abc' | reverse }}{{ [1, 2, 3] | last }}{{ [1, 5, 3] | max }}{{ 'x' | default('y') }}{{ z | default('y') }}{{ '' | default('y', true) }}",
    "{{ ' a ' | trim }}{{ 'a b' | title }}{{ 'a\\nb' | indent(2) }}{{ 'a\\nb' | indent(2, true) }}{{ 'abc' | length }}{{ '3' | int + 1 }}{{ 'ab' | list }}{{ 2.567 | round(1) }}{{ -3 | abs }}{{ 'a' | upper }}{{ 'axa' | replace('a', 'b') }}",
    # statements
    "{% block head %}H{{ messages[0].role }}{% endblock %}{% block tail %}T{% endblock %}{{ self.head() }}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}<{{ m.role }}>{{ loop.nextitem.role if not loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content | length }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "{% for x in [1, [2, 3]] recursive %}{% if x is sequence %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "{% macro f(a, b=2) -%} {{ a }}{{ b }} {%- endmacro %}{{ f(1) }}{{ f(1, b=3) }}{{ f(b=1, a=2) }}",
    "{% macro wrap(x) %}[{{ caller() }}{{ x }}]{% endmacro %}{% call wrap(1) %}in{% endcall %}{% filter upper %}up{% endfilter %}",
    "{% set ns = namespace(found=false, items=[]) %}{% for m in messages %}{% if m.role == 'assistant' %}{% set ns.found = true %}{% set ns.items = ns.items + [m.role] %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.items }}",
    "{% set x %}captured {{ 1 + 1 }}{% endset %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% with c = 3 %}{{ c }}{% endwith %}{% raw %}{{ x }}{% endraw %}",
    "{% for m in messages %}{%- generation %}{{ m.role }}{% endgeneration -%} {% endfor %}",
    "{%- for m in messages -%}\n    {%- if loop.first %}\n        {{- '<s>' }}\n    {%- endif %}\n    {{- m.role + '\\n' }}\n{%- endfor %}\n",
    "a\n  {% if true %}\n  b\n  {%- endif +%}\n  c\n{# note #}\nd\n",
    "{% if messages | length > 2 and not (messages[0].role != 'system') %}y{% endif %}{{ 'a' if false }}{{ 1 if 0 else 2 }}{{ 0 or 'b' }}{{ 1 < 2 < 3 }}{{ not 1 == 2 }}",
    "{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 3 }}{{ -7 // 2 }}{{ 1.0 }}{{ 1e3 }}{{ true }}{{ none }}{{ 3 == 3.0 }}",
    "{% for i in range(3) %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}{{ range(1, 7, 2) | list }}",
    "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ documents }}{{ add_generation_prompt }}{{ nothing }}{{ messages[9] is defined }}{{ messages[0].nothing is defined }}{{ messages[0]['role'] }}",
    "{{ 'a\\u0041\\x41\\'\\\\' }}{{ \"b\\tc\" }}{{ 'x' 'y' }}",
    "{{ strftime_now('%Y') | length }}{{ strftime_now('%d %b %Y') | length }}",
    "{{ messages[::-1] | map(attribute='role') | list }}{{ messages[1:-1] | length }}{{ messages[-1]['content'] }}{{ (messages | last).role }}",
    # what the templates of well-known families do
    "{%- if messages[0]['role'] == 'system' -%}\n    {%- set system_message = messages[0]['content'] | trim -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n{{- bos_token -}}\n{%- for m in loop_messages %}\n    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('alternate') }}{%- endif %}\n    {{- '[INST] ' + (system_message + '\\n\\n' if loop.first and system_message is defined else '') + m['content'] + ' [/INST]' if m['role'] == 'user' else ' ' + m['content'] | trim + eos_token }}\n{%- endfor %}",
    "{%- set ns = namespace(multi_step=true, last=messages | length - 1) %}\n{%- for m in messages[::-1] %}\n    {%- set index = (messages | length - 1) - loop.index0 %}\n    {%- if ns.multi_step and m.role == 'user' and m.content is string and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step = false %}\n        {%- set ns.last = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for m in messages %}\n    {%- set content = m.content if m.content is string else '' %}\n    {%- if m.role == 'assistant' %}\n        {%- set reasoning = '' %}\n        {%- if '</think>' in content %}\n            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n        {%- endif %}\n        {{- '<|im_start|>' + m.role + ('\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' if loop.index0 > ns.last else '\\n') + content.lstrip('\\n') }}\n    {%- else %}\n        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n{%- endif %}",
    "{{- bos_token }}\n{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}{%- set date_string = '26 Jul 2024' %}{%- else %}{%- set date_string = '' %}{%- endif %}\n{%- endif %}\n{%- if not tools is defined %}{%- set tools = none %}{%- endif %}\n{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' }}\n{%- for m in messages %}\n    {%- if not (m.role == 'ipython' or m.role == 'tool' or 'tool_calls' in m) %}\n        {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}\n    {%- endif %}\n{%- endfor %}",
    "{%- macro render(value) -%}\n{%- if value is mapping -%}{ {%- for k, v in value | dictsort %}{{ ', ' if not loop.first }}{{ k }}: {{ render(v) }}{% endfor -%} }\n{%- elif value is iterable and value is not string -%}[{%- for v in value %}{{ ', ' if not loop.first }}{{ render(v) }}{% endfor -%}]\n{%- else -%}{{ value | tojson }}{%- endif -%}\n{%- endmacro -%}\n{{ render({'b': [1, 'x'], 'a': {'c': none}}) }}",
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}",
    "{%- set content = messages[2].content %}{% if content is not none %}{%- set parts = content.partition('</think>') %}{{ parts[2].strip() }}{{ parts[0] | length }}{% endif %}",
]


class Generation(Extension):
    """transformers' mark of the assistant's words: prints what it holds."""
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        return jinja2.nodes.Scope(parser.parse_statements(["name:endgeneration"], drop_needle=True)).set_lineno(lineno)


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return env


def render(template, messages):
    return environment().from_string(template).render(
        messages=messages, tools=None, documents=None, add_generation_prompt=True, bos_token="<s>", eos_token="</s>")


def main():
    if len(sys.argv) == 2:
        cases = [{"template": t, "messages": MESSAGES, "text": render(t, MESSAGES)} for t in TEMPLATES]
        path = os.path.join(sys.argv[1], "chat-jinja2.json")
    elif len(sys.argv) == 3:
        cases, path = [], sys.argv[2]
        for name in sorted(os.listdir(sys.argv[1])):
            template = open(os.path.join(sys.argv[1], name), encoding="utf-8").read()
            for kind, messages in (("all", MESSAGES), ("user", MESSAGES[1:2])):
                try:
                    cases.append({"name": f"{name}: {kind}", "template": template, "messages": messages,
                                  "text": render(template, messages)})
                except Exception as e:
                    print(name, kind, type(e).__name__, e)
    else:
        sys.exit(__doc__)
    with open(path, "w", encoding="utf-8") as out:
        json.dump(cases, out, ensure_ascii=False, indent=1)
        out.write("\n")
    print(len(cases), "cases in", path)


main()
