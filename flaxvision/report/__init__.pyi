from .confusion import (
    draw_matrix as draw_matrix,
    most_confused as most_confused,
)
from .figures import (
    draw_figures as draw_figures,
    figure_files as figure_files,
)
from .page import report_html as report_html
from .style import (
    COLUMN as COLUMN,
    DASHED as DASHED,
    FAINT as FAINT,
    GRID as GRID,
    INK as INK,
    OKABE_ITO as OKABE_ITO,
    PAGE as PAGE,
    End as End,
    colors as colors,
    encode as encode,
    explain_lines as explain_lines,
    figure_style as figure_style,
    label_ends as label_ends,
    new_figure as new_figure,
    new_panels as new_panels,
    plain_logarithmic as plain_logarithmic,
)
from .tables import (
    markdown_table as markdown_table,
    results_csv as results_csv,
    results_latex as results_latex,
    results_markdown as results_markdown,
    terminal_table as terminal_table,
)
from .writer import write_report as write_report
