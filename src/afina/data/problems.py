"""The errors that `afina.data` raises, each with its exception class, stable code and message template."""

from __future__ import annotations

from functools import partial

from afina.errors import CorruptAdapter, InvalidData, InvalidStudy, Leakage, NotFound, Problem

_AGAIN = "Copy the adapter again, or remove this file; without the file, leaked texts cannot be recognised."
SAVE_AS_CSV = "Save the file as csv or jsonl, which are unambiguous."

HASHES_CHANGED = Problem(
    CorruptAdapter,
    "adapter.changed",
    f"{{path}}: the file was changed: its content does not have the digest that it states. {_AGAIN}",
)

_adapter_file_malformed = partial(Problem, CorruptAdapter, "adapter.file-malformed")
HASHES_MALFORMED = _adapter_file_malformed(
    f"{{path}}: expected a salt of 32 hexadecimal digits, and hashes of 8 bytes each in base64. {_AGAIN}"
)

HASHES_FORMAT_UNKNOWN = Problem(
    CorruptAdapter,
    "adapter.format-unknown",
    f"{{path}}: found format {{found!r}}, but this version of afina reads format {{expected}}. {_AGAIN}",
)

_argument_invalid = partial(Problem, InvalidData, "argument.invalid")
COUNT_INVALID = _argument_invalid("`{field}` {found!r}: expected a whole number of at least 1.")
LABEL_NAME_EMPTY = _argument_invalid("`labels` {labels}: an empty name. Give the labels in their order, with commas.")
LABEL_NAME_TWICE = _argument_invalid("`labels`: {repeated} is given twice.")
SHARE_INVALID = _argument_invalid("`{field}` {found!r}: expected a share above 0 and below 1, such as 0.1.")

TASK_NOT_CACHED = Problem(
    NotFound, "asset.unavailable", "task {task}: the data are not on this machine. Load the task once with a network."
)

TOKEN_TYPES_UNSUPPORTED = Problem(
    InvalidStudy,
    "backbone.unsupported",
    "pairs of texts: the tokenizer gives the tokens of a pair the types {found} in an order that is not "
    "supported. Expected type 0 for the first tokens and type 1 for the others. Choose another backbone.",
)

_data_column_ambiguous = partial(Problem, InvalidData, "data.column-ambiguous")
TEXT_COLUMN_AMBIGUOUS = _data_column_ambiguous(
    "{where}: several columns may be the text: {found}. Name one with `text`, such as `text` {_one}, or two "
    "with `text` {_one} and `text_pair` {_other}."
)
LABEL_COLUMN_AMBIGUOUS = _data_column_ambiguous(
    "{where}: several columns may be the label: {found}. Name one with `label`, such as `label` {_usual}. If "
    "each column has 1 or 0 for one label, name all, such as `label` {_all}."
)
TARGET_COLUMN_AMBIGUOUS = _data_column_ambiguous(
    "{where}: several columns may be the target: {found}. Name one with `target`."
)

_data_column_missing = partial(Problem, InvalidData, "data.column-missing")
NO_SUCH_ROLE = _data_column_missing(
    "{where}: no {field} column. Found: {found}. Expected {expected}. Name another column with `{field}`{_more}."
)
COLUMN_MISSING = _data_column_missing(
    "{where}: no column {column!r}. Found: {found}. Name the right one with `{field}`."
)
CONLL_WITHOUT_TAGS = _data_column_missing(
    "{path}: each line has one column, so the words have no tags. Expected a word and its tag in each line, separated "
    "by a tab or a space, such as `Rome B-LOC`."
)
ADAPTER_COLUMNS_MISSING = _data_column_missing(
    "{path}: the adapter's label columns are {expected}; there is no column {_lacking}. To measure the other "
    "labels only, name their columns with `label` {_there}."
)
GLUE_COLUMN_MISSING = _data_column_missing("{where}: no column {column!r}. Found: {found}.{_expected}")
LABELS_UNSAID = _data_column_missing(
    "{path}: no column for the label{_s} {columns} of {task}, so the file does not say which texts have them. "
    "Name a column for each label with `label`."
)
WITHOUT_COLUMNS = _data_column_missing(
    "`without` {path}: no column {missing}. Expected at least the columns {expected}, found {found}. Give a list that "
    "`afina doubts` wrote."
)

_data_column_repeated = partial(Problem, InvalidData, "data.column-repeated")
COLUMN_IS_TEXT = _data_column_repeated("{where}: `{field}` {column} is also the column of a text. Name another column.")
COLUMN_TWICE = _data_column_repeated("{where}: column {column!r} occurs more than once. Rename one of them.")
TARGET_AND_LABEL = _data_column_repeated(
    "`target` {column}: `label` names another column, {label}. Give one of the two: `target` for texts to "
    "write, `label` for labels or numbers."
)

_data_columns_differ = partial(Problem, InvalidData, "data.columns-differ")
COLUMNS_OF_PARTS_DIFFER = _data_columns_differ(
    "{path}: found the columns {found}. Expected those of {_first}: {expected}."
)
LINE_COLUMNS_DIFFER = _data_columns_differ(
    "{where}: its columns would be {found}, and those before it {expected}. Give the same in all lines, or "
    "name them with `text`."
)

_data_encoding_wrong = partial(Problem, InvalidData, "data.encoding-wrong")
ENCODING_WRONG = _data_encoding_wrong(
    "{path}{_place}: {_problem}. Save the file as UTF-8, or name its encoding with `encoding`, such as "
    "windows-1252, windows-1251, koi8-r, shift_jis or gb18030."
)
NUL_CHARACTER = _data_encoding_wrong("{path}, line {line}: a NUL character. {_advice}")

_data_entity_malformed = partial(Problem, InvalidData, "data.entity-malformed")
SPANS_MALFORMED = _data_entity_malformed(
    '{where} holds {found!r}. Expected a list of spans, such as [[0, 5, "PER"]] or [{{"start": 0, "end": 5, "label": '
    '"PER"}}], and [] for a text without entities. Correct the cell or remove the row.'
)
SPAN_MALFORMED = _data_entity_malformed(
    '{where}, span {_number}, {found}: {_why}. Expected start, end and label, such as [0, 5, "PER"] or '
    '{{"start": 0, "end": 5, "label": "PER"}}. Correct the span or remove it.'
)
ENTITIES_OF_PAIRS = _data_entity_malformed(
    "{where}: entities are parts of one text, but columns {found} are a pair of texts. Name the column of the text "
    "with `text`, and leave out `text_pair`."
)
SPANS_OF_WORDS = _data_entity_malformed(
    "{where}: column {column!r} holds spans, but column {found!r} holds words, not texts. Expected spans of a text, or "
    "a tag for each word. Name the column of the text with `text`, or the column of the tags with `label`."
)
NO_ENTITY_COLUMN = _data_entity_malformed(
    '{where}: column {column!r} holds neither spans, such as [[0, 5, "PER"]], nor a tag for each word of a list of '
    'words, such as ["B-PER", "O"]. Name another column with `label`, or leave out `kind`.'
)

_data_entity_misplaced = partial(Problem, InvalidData, "data.entity-misplaced")
SPAN_ELSEWHERE = _data_entity_misplaced(
    "{where}: the span {_place} ({label}) is {_problem}. Correct start and end, counted from 0; the end is "
    "exclusive.{_hint}"
)
SPAN_EMPTY = _data_entity_misplaced(
    "{where}: the span {_place} ({label}) is {_problem}. Correct the span or remove it."
)
SPANS_COUNTED_OTHERWISE = _data_entity_misplaced(
    "{path}: spans of column {column!r} do not fit their texts, but all fit if start and end count {_words}. `repair` "
    "converts them only if each span also has the key 'text' with its part of the text. Convert them to characters "
    "(code points)."
)
SPAN_CUTS_WORD = _data_entity_misplaced("{where}: the span {found} ({label}) is not whole words.{_hint}")
SPAN_MAY_COUNT_OTHERWISE = _data_entity_misplaced(
    "{where}: the span {found} ({label}) is not whole words, but spans of this text are if start and end count "
    "{_words}. `repair` does not choose between the two. Convert start and end to characters (code points), or correct "
    "the span."
)

_data_entity_borders = partial(Problem, InvalidData, "data.entity-borders")
SPAN_NOT_WORDS = _data_entity_borders(
    "{where}: the span {found} ({label}) begins or ends {_border}. Expected whole words: {expected}. Correct the "
    "span, or set `repair` to {_mend}."
)
SPAN_REPEATED = _data_entity_borders(
    "{where}: the span {found} ({label}) is given twice. Remove one, or set `repair` to leave out repeated spans."
)

SPANS_OVERLAP = Problem(
    InvalidData,
    "data.entities-overlap",
    "{where}: the span {found} overlaps with {_other}. A word belongs to at most one entity. Correct the spans or "
    "remove one of them.",
)

_data_tags_malformed = partial(Problem, InvalidData, "data.tags-malformed")
TAGS_MALFORMED = _data_tags_malformed(
    '{where} holds {found!r}. Expected a list with a tag for each word, such as ["B-PER", "O"]. Correct the cell or '
    "remove the row."
)
TAGS_MISCOUNTED = _data_tags_malformed(
    "{where}: {_tags} for {_words}. Expected a tag for each word. Correct the row or remove it."
)
TAG_UNKNOWN = _data_tags_malformed(
    "{where}: the tag {found!r} is no tag of {_scheme}, as most other tags are. Expected O or {expected}. Correct "
    "the tag."
)
TAGS_OF_NO_SCHEME = _data_tags_malformed(
    "{where}: the tags {found} belong to no scheme, or to several. Expected O, and labels alone or with one of "
    "{expected}, such as B-PER. Correct the tags; if another column has the tags, name it with `label`."
)
TAGS_WITHOUT_OUTSIDE = _data_tags_malformed(
    "{where}: every word has a label, such as {found}, and no tag is O, so the tags may be word classes and not "
    "entities. Name the column with the tags of entities with `label`."
)
TAG_NUMBER_UNNAMED = _data_tags_malformed(
    "{where}: column {column!r} holds numbers such as {found}, whose names the file does not give. Name the numbers "
    "from 0 in their order with `labels`, such as O,B-PER,I-PER."
)
TAG_NUMBER_UNKNOWN = _data_tags_malformed(
    "{where}: the number {found} is no tag; {expected} tags have names, from 0. Correct the number, or give all names "
    "with `labels`."
)
TAGS_IMPOSSIBLE = Problem(
    InvalidData,
    "data.tags-impossible",
    "{where}: {found}, which {_scheme} does not allow. Correct the tags, or set `repair` to read them as the script "
    "conlleval does: a tag that continues no entity begins one.",
)

_data_words_malformed = partial(Problem, InvalidData, "data.words-malformed")
CONLL_COLUMNS = _data_words_malformed(
    "{path}, line {line}: found {_columns}. Expected {expected}, separated by {_mark}, as in the first line. "
    "Correct the line."
)
WORDS_MALFORMED = _data_words_malformed(
    '{where} holds {found!r}. Expected a list of words, such as ["Maria", "sleeps"]. Correct the cell or remove the '
    "row."
)
WORD_EMPTY = _data_words_malformed(
    "{where} is empty or invisible. Expected a word. Remove it and its tag, or write it visibly."
)
WORD_WITH_SPACE = _data_words_malformed(
    "{where}: {found!r} has white space inside. Expected one word without spaces. Divide it into words, each with its "
    "own tag."
)
WORD_OF_OTHER_TYPE = _data_words_malformed("{where}: found a {found}. Expected a word. Correct the row or remove it.")
WORDS_ARE_NUMBERS = _data_words_malformed(
    "{path}: column {column!r} only numbers the words of each text. Name the column of the words with `text`; the file "
    "has the columns {found}."
)

_data_file_damaged = partial(Problem, InvalidData, "data.file-damaged")
LABEL_STUDIO_MALFORMED = _data_file_damaged(
    "{path}, task {task}: an annotation that is not as Label Studio writes it ({_problem}). Export the project again, "
    "as JSON."
)
NOT_READABLE = _data_file_damaged("{path}: not a readable {_kind} file ({_error}).{_advice}")
PARQUET_DAMAGED = _data_file_damaged("{path}, row {row}: damaged ({_error}).")

FILE_EXPANDS = Problem(
    InvalidData,
    "data.file-expands",
    "{path}: more than {most:,} bytes come out of {bytes:,}. If that is right, decompress the file, and give "
    "the file inside.",
)

_data_format_unknown = partial(Problem, InvalidData, "data.format-unknown")
FORMAT_UNKNOWN = _data_format_unknown(
    "{path}: cannot read {found}. Expected {expected}, or one of these with {_compressed}."
)
TEXTS_TO_LABEL_SUFFIX = _data_format_unknown(
    "`out` {path}: unknown file type. Expected a name that ends in .csv for a table, or in .json for tasks of Label "
    "Studio."
)
TEXT_FILE_UNREADABLE = _data_format_unknown(
    "`file` {path}: cannot read {found}. Expected {expected}, or a text file with one text a line."
)

_data_header_malformed = partial(Problem, InvalidData, "data.header-malformed")
CELL_WITHOUT_COLUMN = _data_header_malformed(
    "{path}, row {row}: {found!r} is in a column without a name. Name the columns in the first row, and leave "
    "nothing above or beside the table."
)
HEADER_AGAIN = _data_header_malformed("{where}: this row repeats the column names. Remove it, and other rows like it.")

_data_kind_ambiguous = partial(Problem, InvalidData, "data.kind-ambiguous")
SINGLE_BIT_LISTS = _data_kind_ambiguous(
    "{where}: each list of column {column!r} holds a single 0 or 1. This may be the name of a label, or say "
    "whether a label is present. For two classes, remove the brackets; for one label, give its name with "
    "`labels`; for two labels, give both names with `labels`."
)
NUMBERS_OR_CLASSES = _data_kind_ambiguous(
    "{path}: column {column!r} holds each whole number from {first} to {last}. They may measure something, or "
    "stand for {distinct} classes. Say which with `kind` number or `kind` classes."
)

_data_kind_mismatch = partial(Problem, InvalidData, "data.kind-mismatch")
KIND_OF_ADAPTER_OTHER = _data_kind_mismatch(
    "task {task}: the adapter was trained on kind {found}, so the texts cannot be read as kind {expected}. "
    "Name the column with `label`, and leave `kind` out."
)
KIND_OF_TASK_OTHER = _data_kind_mismatch(
    "task {task}: the task is of kind {found}, but the adapter was trained on kind {expected}. Give a task of "
    "the adapter's kind."
)
SEVERAL_LABEL_COLUMNS = _data_kind_mismatch(
    "{path}: `label` names {columns} columns, one for each label. Set `kind` labels, without a `separator`."
)
TARGET_OF_OTHER_KIND = _data_kind_mismatch(
    "`target` {column}: a column of texts to write, but the task is of kind {found}. Name the column with `label`."
)
KIND_FIXED = _data_kind_mismatch(
    "task {task}: the task is of kind {found}, so `kind` cannot be {expected}. Remove `kind`."
)

_data_label_malformed = partial(Problem, InvalidData, "data.label-malformed")
MULTI_HOT_MIXED = _data_label_malformed(
    "{where}: column {column!r} holds {found!r}, but most other rows hold {expected} times 0 or 1. Expected "
    "{expected} times 0 or 1 in each row, or the names of its labels in each row. Correct the row or remove it."
)
MULTI_HOT_MALFORMED = _data_label_malformed(
    "{where}: column {column!r} holds {found!r}. Expected {expected} times 0 or 1. Correct the cell or remove the row."
)
LIST_MALFORMED = _data_label_malformed(
    '{where}: column {column!r} holds {found!r}{_beside}. Expected a list in JSON or Python notation, such as ["late", '
    '"broken"] or [0, 1, 0]. Correct the cell; if all cells are names of classes, set `kind` classes{_or_labels}.'
)
LABEL_MALFORMED = _data_label_malformed("{where}: column {column!r} holds {_found}, expected {_expected}.")
LABELS_ARE_DATES = _data_label_malformed(
    "{path}: column {column!r} holds dates, such as {found!r}, which are neither numbers nor names of classes. "
    "Name another column with `label`; if each date is a class, set `kind` classes."
)
REFERENCES_MALFORMED = _data_label_malformed(
    "{where} holds {found!r}, which begins as a list of texts but is not JSON. Correct the list. If it is one "
    "text, write it as a list with one text, such as {_written}."
)

_data_label_unknown = partial(Problem, InvalidData, "data.label-unknown")
GLUE_LABEL_UNKNOWN = _data_label_unknown("{where}: label {label!r}, expected one of {known} or its number.")
LABEL_UNKNOWN = _data_label_unknown(
    "{where}: label {label!r} is unknown; {_whose} {_known}. Correct it, or add training examples of it."
)
POSITIVE_UNKNOWN = _data_label_unknown("{where}: `positive` {label!r} is not a label. Give one of {known}.")

LABELS_ALIKE = Problem(
    InvalidData,
    "data.labels-alike",
    "{where}: labels differ only by case, spaces, invisible characters, the Unicode form of a character, B- or I- "
    "before a tag, or the way to write a number or truth: {found}. Spell each label in one way, or merge spellings "
    "with `merge_labels`. If they are different labels, name all labels with `labels`.",
)

_data_labels_mismatch = partial(Problem, InvalidData, "data.labels-mismatch")
ADAPTER_LABELS_UNNAMED = _data_labels_mismatch(
    "{where}: found the labels {_known}. The adapter has {expected} labels without names. Give the names in "
    "their order with `labels`."
)
MULTI_HOT_NAMES = _data_labels_mismatch(
    "{where}: the lists of column {column!r} hold 0 or 1 for each of {expected} labels, and `labels` {found} "
    "gives {_count}. Give a name for each of the {expected}, in their order."
)
LABELS_INCOMPLETE = _data_labels_mismatch(
    "`labels` {labels}: {_whose} labels are {_known}. Give each of them once, in the order of the integers "
    "from 0 that stand for them in the data; of two labels, the second is positive."
)
LABELS_NOT_THOSE_KNOWN = _data_labels_mismatch("{where}: its labels are {_found}; {_whose} are {_known}. {_advice}")
LABELS_OF_TRAINING_OTHER = _data_labels_mismatch(
    "`labels` {labels}: the training split has the labels {_known}. Give each of them once, as it stands in the "
    "data{_or_names}."
)

_data_leakage = partial(Problem, Leakage, "data.leakage")
ALL_TRAINED_ON = _data_leakage(
    "task {where}: the adapter was trained on all {leaked:,} texts, so they cannot show how good it is. Give "
    "other texts, or pass `allow_leakage` to continue."
)
LEAKED = _data_leakage(
    "task {task}: {leaked} of {evaluation} evaluation texts also occur in the training split; at most "
    "{limit:.0%} may. Remove the duplicates, or pass `allow_leakage` to continue."
)

_data_lengths_differ = partial(Problem, InvalidData, "data.lengths-differ")
COLUMN_LENGTHS_DIFFER = _data_lengths_differ(
    "{_name}: found different numbers of values ({_found}). Expected one in each row."
)
PAIRS_LENGTH = _data_lengths_differ("{texts:,} texts and {pairs:,} second texts: expected one for each text.")
SPLIT_LENGTHS = _data_lengths_differ(
    "a split's texts, labels, pairs, groups and weights: found different lengths, {found}. Expected equal lengths."
)

_data_no_labels = partial(Problem, InvalidData, "data.no-labels")
GLUE_UNLABELLED = _data_no_labels("{path}: no labelled rows. Expected GLUE's training or validation split.")
COLUMNS_WITHOUT_LABEL = _data_no_labels(
    "{path}: no row has a label in {columns}, so there is nothing to learn. Give some."
)
LABEL_STUDIO_NOT_ANNOTATED = _data_no_labels(
    "{path}: none of {tasks:,} tasks has an annotation on which all annotators agree. Predictions are not read as "
    "labels. Annotate tasks in Label Studio, and export the project as JSON."
)
NONE_ACCEPTED = _data_no_labels(
    "{path}: column {column!r} accepts the annotation of none of {rows:,} rows. Give rows that were accepted, or "
    "rename the column if it says something else."
)
NO_TEXT_LABELLED = _data_no_labels("task {task}: none of {examples} training texts has {_target}. Give more examples.")

_data_no_rows = partial(Problem, InvalidData, "data.no-rows")
TSV_FROM_PIPE = _data_no_rows(
    "{path}: an empty file or a pipe. A tsv cannot be read from a pipe. Give a file with rows."
)
FILE_EMPTY = _data_no_rows("{path}: {_problem}. Expected {_expected}.")
UNLABELLED_NONE_LEFT = _data_no_rows(
    "{path}: none of the {rows:,} texts is left ({_gone}). Expected texts that the task does not have already."
)
WITHOUT_EMPTY = _data_no_rows(
    "`without` {path}: no rows below the column names, so nothing would be left out. Leave out `without`."
)
WITHOUT_NONE_LEFT = _data_no_rows(
    "`without` {path}: all {examples:,} training texts would be left out. Expected a list of a few rows."
)
WITHOUT_LABEL_LOST = _data_no_rows(
    "`without` {path}: without its {rows:,} rows, no training text has the label {label!r}. Remove rows with this "
    "label from the list."
)
DUPLICATES_ALL = _data_no_rows(
    "`{option}`: of {rows:,} training rows, none with the label {label!r} would be left. Read the rows without "
    "`{option}`, or correct the labels of equal texts."
)
SQUAD_NO_ANSWERS = _data_no_rows("{path}: none of {rows:,} questions has an answer. Give a file with answers.")

_data_number_malformed = partial(Problem, InvalidData, "data.number-malformed")
GLUE_SCORE_MALFORMED = _data_number_malformed("{where}: {found!r}, expected a number from 0 to 5.")
NOTATION_AMBIGUOUS = _data_number_malformed(
    "{where} holds {found!r}{_problem}. Write all numbers alike, with a point and nothing else, such as "
    "1234.5; if these are names of classes, say so with `kind` classes, if several labels, with `separator`."
)
POINTS_AMBIGUOUS = _data_number_malformed(
    "{where} holds {found!r} beside {_other!r}: its point may be a decimal mark or separate thousands. If it is a "
    "decimal mark, say so with `kind` number. If it separates thousands, remove such points; if these are names of "
    "classes, say so with `kind` classes."
)
TEXT_AMONG_NUMBERS = _data_number_malformed(
    "{where} holds {found!r} among numbers. Correct it or remove the row; if these are names, set `kind` to classes."
)
NUMBER_MALFORMED = _data_number_malformed(
    "{where} holds {found!r}, expected a number such as {_example}. Correct it or remove the row."
)
NUMBER_INFINITE = _data_number_malformed("{where} is infinite. Expected a finite number; correct it or remove the row.")
NUMBERS_TOO_LARGE = _data_number_malformed(
    "task {task}: the numbers, up to {found:g}, are too large: their standard deviation is infinite. Divide "
    "the numbers by a constant."
)

ONE_VALUE = Problem(
    InvalidData,
    "data.one-value",
    "task {task}: all {examples} training examples have the {_target} {found!r}, so there is nothing to learn. "
    "Give examples with different ones.",
)

_data_option_inapplicable = partial(Problem, InvalidData, "data.option-inapplicable")
WITHOUT_OF_TEXTS = _data_option_inapplicable(
    "task {task}: `without` leaves out rows with a doubtful label, but the kind of task is text, which has no labels. "
    "Remove the rows from a copy of the file."
)
WITHOUT_ROWS = _data_option_inapplicable(
    "task {task}: its texts are not single rows of files, so `without` cannot name them. Save the texts as a file."
)
SEPARATOR_OF_ONE_LABEL = _data_option_inapplicable(
    "`separator` {separator!r}: a separator needs several labels, but `kind` is {kind}. Remove one of them."
)
SEPARATOR_ABSENT = _data_option_inapplicable(
    "{path}: `separator` {separator!r} is in no row of column {column!r}. Give another separator, or remove "
    "`separator`."
)
SHEET_OF_OTHER_FILE = _data_option_inapplicable(
    "`sheet` {sheet}: {path} is not an xlsx file, so it has no sheets. Remove `sheet`."
)
ENCODING_INAPPLICABLE = _data_option_inapplicable(
    "`encoding` {encoding}: {path} is {_found}. Leave out `encoding`; if another file of the task needs it, save that "
    "file as UTF-8."
)
LABELS_INAPPLICABLE = _data_option_inapplicable(
    "`labels` {labels}: the targets are {_plural}, which have no names. Leave it out."
)
LONG_INAPPLICABLE = _data_option_inapplicable(
    "task {where}: `long` is about targets that are texts, but the task is of kind {kind}. Remove `long`."
)
COLUMN_OF_PLAIN_TEXTS = _data_option_inapplicable(
    "`file` {path}: one text a line, so it has no columns. Leave out `{option}`."
)
REPAIR_INAPPLICABLE = _data_option_inapplicable(
    "{path}: `repair` mends the borders of entities and the tags of words, but the kind of task is {kind}. Remove "
    "`repair`."
)
POSITIVE_INAPPLICABLE = _data_option_inapplicable(
    "{where}: `positive` chooses one of two classes, but the task has {found}. Remove `positive`."
)
COLUMNS_FIXED = _data_option_inapplicable("task {task}: the columns of this task are fixed. Remove `{option}`.")

PAIRS_MISMATCH = Problem(
    InvalidData, "data.pairs-mismatch", "{path}: found {found}. Task {task} has {expected}. Give a file like the task."
)

_data_rows_unknown = partial(Problem, InvalidData, "data.rows-unknown")
WITHOUT_ROW_UNKNOWN = _data_rows_unknown(
    "{where}: {file} has no labelled text in row {row} (first row {_first}, last row {_last}). The file has changed, "
    "or the list is of another file. Make the list again."
)
WITHOUT_FILE_UNKNOWN = _data_rows_unknown(
    "{where}: the texts of task {task} are not from a file named {found}. Expected {expected}. Give the list of this "
    "task, or make the list again."
)
WITHOUT_TEXT_DIFFERS = _data_rows_unknown(
    "{where}: the text begins with {found!r}, but that of {_there} with {expected!r}. The file has changed since the "
    "list was made. Make the list again."
)
WITHOUT_LABEL_DIFFERS = _data_rows_unknown(
    "{where}: the label is {found!r} there, but {label!r} in {_there}. If the label was corrected, remove the row from "
    "the list, or make the list again."
)

_data_row_malformed = partial(Problem, InvalidData, "data.row-malformed")
WITHOUT_ROW_MALFORMED = _data_row_malformed(
    "{where}: column 'row' has {found!r}. Expected the number of a line or row, such as 7."
)
QUOTE_INSIDE_FIELD = _data_row_malformed(
    f"{{path}}, line {{line}}: a field that is not quoted has a quotation mark inside, or a quoted field has "
    f"one that is not doubled. Most fields of this column are quoted. {SAVE_AS_CSV}"
)
QUOTES_AMBIGUOUS = _data_row_malformed(
    f"{{path}}, line {{line}}: quotation marks may quote fields or belong to the text: some fields are "
    f"completely in quotation marks, and similar fields are not. {SAVE_AS_CSV}"
)
NOT_DELIMITED = _data_row_malformed(
    "{path}, line {line}: {_problem}. Expected {_mark}-separated values with doubled quotation marks."
)
FIELDS_MISCOUNTED = _data_row_malformed(
    "{path}, line {line}: found {_fields} in the row that begins with {_row!r:.40}. Expected {_count} ({expected})."
    "{_hint}"
)
NOT_AN_OBJECT = _data_row_malformed("{where}: found a {found}. Expected {expected}.")
NOT_JSON = _data_row_malformed("{where}: not JSON ({_why}). Expected {expected}.")
GLUE_FIELDS_TOO_FEW = _data_row_malformed(
    "{path}, line {line}: too few fields, as in {rows} of {_lines} lines. Expected {_count} ({expected}), "
    "separated by tabs."
)
SQUAD_MALFORMED = _data_row_malformed(
    "{where}: expected {_words} `{_name}`, as in a json file of SQuAD, but {_found}. Correct the file."
)

WITHOUT_CELL_EMPTY = _data_row_malformed(
    "{where}: column {column!r} is empty. Expected the file, row and text of each row that is left out. Remove the row."
)

_data_sheet_missing = partial(Problem, InvalidData, "data.sheet-missing")
SHEET_AMBIGUOUS = _data_sheet_missing(
    "{path}: {_count} sheets are not empty: {found}. Name the sheet to read with `sheet`."
)
SHEET_MISSING = _data_sheet_missing("{path}: no sheet {sheet!r}. Found: {found}. Name the right one with `sheet`.")

_data_surrogate = partial(Problem, InvalidData, "data.surrogate")
SURROGATE = _data_surrogate("{_place} holds half a surrogate pair. Repair the {_what}.")

_data_target_long = partial(Problem, InvalidData, "data.target-long")
TARGET_TOO_LONG = _data_target_long(
    "{_where} {row}: its target has {found:,} tokens, more than half of the {max_length:,} that prompt and "
    "target may have together (`max_length`). {_every}Set a greater `max_length`{_skip}."
)
EVALUATION_TOO_LONG = _data_target_long(
    "evaluation text {row}: its prompt and target have {found:,} tokens together, but the model takes at most "
    "{most:,}. Set a smaller `max_length`, which shortens prompts, or remove the row."
)

_data_text_empty = partial(Problem, InvalidData, "data.text-empty")
TEXT_EMPTY = _data_text_empty("{where}: column {column!r} is empty. Expected a text. Fill it in or remove the row.")
ITEM_BLANK = _data_text_empty("{_which}{_where} {row}: {found!r} is blank. Give it some content, or leave it out.")
TEXT_WITHOUT_TOKENS = _data_text_empty(
    "{_where} {row}: {found!r} gives no tokens. Remove empty texts, or fill them in."
)

NO_ROOM_FOR_WORDS = Problem(
    InvalidStudy,
    "data.no-room-for-words",
    "`max_length` {max_length} leaves too few tokens for a window of words. Give at least {least}.",
)

_data_too_few_texts = partial(Problem, InvalidData, "data.too-few-texts")
NOTHING_TO_HOLD_OUT = _data_too_few_texts(
    "{path}: {_lacks} among {examples} examples, so no text can be held out. Give more examples, or a separate "
    "file with `evaluation`."
)
ONLY_TEXT_OF_LABEL = _data_too_few_texts(
    "{where}: the only text of label {label!r}, so none of it can be kept aside to evaluate on. Give more of them, "
    "remove it, or give a file of its own to evaluate on with `evaluation`.{_measured}"
)
CUT_EMPTY = _data_too_few_texts(
    "cutting a share of {share:g} for {field} from {examples} training examples left one side empty, because all have "
    "the same text. Give more texts."
)

_data_type_wrong = partial(Problem, InvalidData, "data.type-wrong")
ARGUMENT_OF_OTHER_TYPE = _data_type_wrong("`{argument}`: found a {found}{_shape}. {_expected}")
CELL_OF_OTHER_TYPE = _data_type_wrong("{_place} holds a {found}. Expected {_expected}.")
LABELS_DTYPE = _data_type_wrong(
    "{_where}: found dtype {found}. Expected indices, numbers, rows of 0 and 1, or tuples of references."
)
COLUMN_NAMES_NOT_TEXTS = _data_type_wrong(
    "{found}: found the column names {_names!r:.60}. Expected names that are texts."
)
PAIRS_TWICE = _data_type_wrong("`texts` holds pairs, and `pairs` is given too. Leave one of them out.")
ONE_STRING = _data_type_wrong("{_name}one string, {found!r}: expected a list of {_items}, such as [{found!r}].")
ROWS_OF_TEXTS_WIDE = _data_type_wrong("`{argument}`: rows of {_widths} values. {_expected}")
ITEM_NOT_A_TEXT = _data_type_wrong("{_which}{_where} {row}: found a {found}, expected a text.")

_data_value_missing = partial(Problem, InvalidData, "data.value-missing")
REFERENCE_EMPTY = _data_value_missing("{where} holds an empty text. Expected a text. Fill it in or remove it.")
CELL_MEANS_MISSING = _data_value_missing(
    "{where} holds {found!r}, a word for a missing value. Expected {expected}. Fill it in, remove the row, or leave "
    "such rows out with `missing` skip.{_more} If it is {expected}, set `missing` keep."
)
ALL_ROWS_INCOMPLETE = _data_value_missing(
    "{path}: a value is missing in each of the {rows:,} rows. Give complete rows."
)
CELL_MISSING = _data_value_missing(
    "{where} is empty. Expected {expected}. Fill it in, remove the row, or leave such rows out with `missing` skip."
    "{_more}"
)

OPENPYXL_MISSING = Problem(
    NotFound, "extra.missing", "reading an xlsx file needs openpyxl, which is not installed: pip install openpyxl."
)

_file_missing = partial(Problem, NotFound, "file.missing")
FILE_MISSING = _file_missing("`{field}` {path}: no such file. Give a file that ends in {expected}{_more}.")
TEXT_FILE_MISSING = _file_missing("`{_field}` {path}: no such file or directory.")


_file_unreadable = partial(Problem, NotFound, "file.unreadable")
FILE_UNREADABLE = _file_unreadable("{path}: {_problem}{_reason}.")
FILE_IS_PIPE = _file_unreadable(
    "{path}: a pipe, which can be read only once. Save its content in a file, and give the file."
)
FILE_ENDLESS = _file_unreadable("{path}: a device, which has no end. Give a file.")

_request_chat_unusable = partial(Problem, InvalidData, "request.chat-unusable")
MESSAGE_SPECIAL_TOKEN = _request_chat_unusable(
    "`messages`: message {number} has the special token {token!r}, which separates messages. Leave the token out."
)
MESSAGES_REFUSED_BY_TEMPLATE = _request_chat_unusable(
    "`messages`: the chat template of the model cannot be used: {_error}. Give roles in the order that the "
    "model was trained with: mostly user and assistant in turns."
)
MESSAGE_LEFT_OUT = _request_chat_unusable(
    "`messages`: the chat template of the model leaves out message {number}, of role {role!r}. Put its text "
    "into a message of the user."
)

_retention_texts_unusable = partial(Problem, InvalidData, "retention.texts-unusable")
NEUTRAL_TEXTS_EMPTY = _retention_texts_unusable("`retention` {source}: no text there. Give a file of sentences.")
NEUTRAL_TEXTS_IN_TASK = _retention_texts_unusable(
    "`retention` {source}: the task {task} holds some of these sentences, such as {found!r}, so they are not "
    "neutral. Name another file of sentences with `retention`."
)

SHOTS_TOO_MANY = Problem(
    InvalidStudy,
    "shots.too-few-texts",
    "`shots` {shots}: only {found} different training texts of task {task} can be examples. Expected at least "
    "{expected}. Texts of the other splits, and texts that contain {{text}} or {{text_pair}}, are no examples. Give "
    "fewer `shots`, or more training texts.",
)

SHOTS_DO_NOT_FIT = Problem(
    InvalidStudy,
    "shots.too-long",
    "`shots` {shots}: the examples have up to {tokens:,} tokens and the longest text in its template has {room:,}, but "
    "this model takes {most:,} tokens at once. At most {fits} examples fit. Set fewer `shots`, or a lower "
    "`max_length`, at which texts are cut.",
)

SHOTS_IN_CHAT_TEMPLATE = Problem(
    InvalidStudy,
    "shots.in-chat-template",
    "`shots` {shots} and `template` chat: examples cannot stand before a chat template, whose prompt is one message "
    "of a chat. Give a template of your own, such as 'Question: {{text}}\\nAnswer:'.",
)

_task_files_ambiguous = partial(Problem, InvalidData, "task.files-ambiguous")
SEVERAL_FILES_OF_SPLIT = _task_files_ambiguous(
    "{path}: found {found}. Expected only one of {expected}. Remove or rename the others."
)
ARCHIVE_NOT_ONE_FILE = _task_files_ambiguous(
    "{path}: the archive has {files:,} files{_colon}{found}{_more}. Expected one. Unpack the archive, and give "
    "a file, or a directory with train.* and dev.* files."
)

_task_missing = partial(Problem, NotFound, "task.missing")
TASK_MISSING = _task_missing(
    "task {task}: no such file or directory. Expected a file ({expected}), a directory with train.* and dev.* "
    "files, or a named task such as sst2, glue/cola, hub:OWNER/NAME or snippets:movies."
)
NO_FILE_OF_SPLIT = _task_missing(
    "{path}: no {file} file. Found: {found}. Expected one of {expected}, ending in {_formats}."
)
NO_TRAINING_SPLIT = _task_missing(
    "{path}: no split {expected!r}. Found: {found}. Rename the split with the training texts, or give one split."
)
HUB_ADDRESS_MALFORMED = _task_missing(
    "no data set is called {found!r}. Expected hub:OWNER/NAME or hub:OWNER/NAME:CONFIG."
)
GLUE_DIRECTORY_MISSING = _task_missing("{path}: no such directory. Expected a directory with GLUE's {expected}.")
PLACE_MISSING = _task_missing("{path}: no such file or directory.")
BENCHMARK_FILE_MISSING = _task_missing("{path}: no {file}. Found: {found}. Expected {_expected}.")

CHAT_TEMPLATE_MISSING = Problem(
    InvalidStudy,
    "template.chat-missing",
    "`template` chat: the tokenizer has no chat template. Give a template such as 'Question: "
    "{{text}}\\nAnswer:', or choose a backbone that was trained for chats.",
)

CHAT_TEMPLATE_BROKEN = Problem(
    InvalidStudy,
    "template.chat-unusable",
    "`template` chat: the tokenizer's chat template cannot be used: {_error}. Give a template of your own.",
)

_template_invalid = partial(Problem, InvalidStudy, "template.invalid")
TEMPLATE_WITHOUT_TEXT = _template_invalid(
    "`template` {_brief}: expected {{text}} once, and {{text_pair}} at most once, such as 'Review: "
    "{{text}}\\nSentiment:'."
)
TEMPLATE_OF_OTHER_TEXTS = _template_invalid("`template` {_brief}: the examples are {found}. {_advice}")
TEMPLATE_COLUMN_UNKNOWN = _template_invalid(
    "`template` {_brief}: {found} is no column of the input, so it would stand in each prompt as it is. "
    "Expected {expected}."
)
TEMPLATE_TOO_LONG = _template_invalid(
    "`template` {_brief}: the template has {tokens} tokens and `max_length` is {max_length}, so no token is "
    "left for the text. Give a shorter template, or a greater `max_length`."
)

TARGET_SPAN_UNKNOWN = Problem(
    InvalidData,
    "template.span-unknown",
    "{_where} {row}: the tokens of the target {target!r} cannot be told from those of the prompt, because the "
    "tokenizer joins the end of the prompt with the target. End the `template` with a letter, a colon or a "
    "line break, not with a space.",
)

NO_END_OF_SEQUENCE = Problem(
    InvalidStudy,
    "tokenizer.end-missing",
    "the tokenizer has no end-of-sequence token, so a model could not learn where an answer ends. Choose "
    "another backbone, or set eos_token in its tokenizer_config.json.",
)
