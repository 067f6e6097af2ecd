from roadbits.fleet.report.markup import Cell, Column, data, element, join, table


def test_text_is_escaped_once_and_html_not_at_all() -> None:
    assert element("p", join(["a < b", element("b", "&")], " "), title='"x"') == (
        '<p title="&quot;x&quot;">a &lt; b <b>&amp;</b></p>'
    )


def test_data_cannot_end_its_script_element() -> None:
    assert "</script><" not in data("x", {"a": "</script><img>"}).removesuffix("</script>")


def test_a_table_tells_text_from_numbers_and_marks_the_best() -> None:
    text = table([Column("codec", is_text=True), Column("mIoU")], [["<i>", Cell("61.0", 0.61, is_best=True)]])
    assert '<td class="text">&lt;i&gt;</td>' in text
    assert '<td class="best" style="--shade:61%" data-shaded>61.0</td>' in text
