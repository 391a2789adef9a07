"""Plots are the same for every reader, hold their text as text, and bring nothing into a page but themselves."""

import re

import matplotlib as mpl
import pytest
from scipy.stats import norm

from federation.drawing import INK, new_figure, our_style, set_deviates, svg_element


def drawn(name="one", description="two lines"):
    with our_style():
        figure, axes = new_figure(3, 2)
        for label in ("$5 and $6", "<b> & 'c'"):
            axes.plot([0, 1], [0, 1], label=label)
        axes.legend()
        return svg_element(figure, name, description)


def test_a_plot_begins_with_what_it_shows_and_has_no_size_style_metadata_or_reference_outside():
    text = drawn("one", 'a "b" of <c> & d')
    opening = text[: text.index(">")]
    assert opening.startswith('<svg role="img" aria-label="a &quot;b&quot; of &lt;c&gt; &amp; d"')
    assert "viewBox=" in opening
    assert not re.search(r' (width|height)="[\d.]+pt"', opening)
    assert not re.search(r"<(style|metadata|script|image)\b|<\?xml|<!DOCTYPE", text)
    assert text.rstrip().endswith("</svg>")
    ids, used = re.findall(r'\bid="([^"]+)"', text), re.findall(r'(?:href="|url\()([^")]+)', text)
    assert ids
    assert used
    assert all(each.startswith("one-") for each in ids)
    assert {each.removeprefix("#") for each in used} <= set(ids)


def test_text_stays_text_and_a_dollar_a_dollar():
    text = drawn()
    assert ">$5 and $6</text>" in text
    assert ">&lt;b&gt; &amp; 'c'</text>" in text


def test_the_same_plot_is_the_same_bytes_and_two_in_a_page_share_no_id():
    assert drawn() == drawn()
    one, other = (set(re.findall(r'\bid="([^"]+)"', drawn(name))) for name in ("one", "other"))
    assert not one & other


def test_a_reader_s_own_configuration_counts_for_nothing_and_is_left_as_it_was():
    usual = drawn()
    theirs = {"lines.linewidth": 9, "text.color": "red", "svg.hashsalt": "theirs"}

    def half_way():
        with our_style():
            assert (mpl.rcParams["text.color"], mpl.rcParams["svg.hashsalt"]) == (INK, "intaglio")
            raise KeyError("half-way")

    with mpl.rc_context(theirs):
        assert drawn() == usual
        with pytest.raises(KeyError, match="half-way"):
            half_way()
        assert {name: mpl.rcParams[name] for name in theirs} == theirs


def test_rates_are_marked_where_normal_deviates_lie_and_called_per_cent():
    with our_style():
        figure, axes = new_figure(4, 2)
        set_deviates(axes.yaxis, [0.001, 0.25])
        assert tuple(figure.get_size_inches()) == (4, 2)
        assert list(axes.yaxis.get_majorticklocs()) == pytest.approx([norm.ppf(0.001), norm.ppf(0.25)])
        assert list(axes.yaxis.get_minorticklocs()) == []
        assert [axes.yaxis.get_major_formatter()(norm.ppf(rate), 0) for rate in (0.001, 0.25)] == ["0.1", "25"]
