"""Metrics of tasks that score their rows one by one: the mean of the rows' scores, which are the predictions (N,).

The task computes the scores: of answers to questions by SQuAD's rules, of rankings of passages from ranks.
"""

from __future__ import annotations

from objectives.metric import mean_of_rows

#: Of extractive answers.
ANSWER_METRICS = (
    mean_of_rows("squad_f1", "token F1 of the answer, as SQuAD's script counts it", "F1"),
    mean_of_rows("exact_match", "share of answers that are a gold answer, as SQuAD's script compares them"),
)
#: Of rankings of passages.
RANKING_METRICS = (
    mean_of_rows("recall_at_1", "share of queries whose first passage is relevant", "recall@1"),
    mean_of_rows("recall_at_10", "share of a query's relevant passages among the first ten", "recall@10"),
    mean_of_rows("mrr_at_10", "mean reciprocal rank of the first relevant passage, 0 beyond the tenth", "MRR@10"),
    mean_of_rows("ndcg_at_10", "normalised discounted cumulative gain of the first ten passages", "nDCG@10"),
)
ROW_METRICS = (*ANSWER_METRICS, *RANKING_METRICS)
