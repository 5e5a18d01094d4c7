"""Alembic's folder: how the tables of `sql_tables` came to be, step by step.

A migration is written by hand into `versions`, named by the number after the last one. MySQL
commits each statement by itself, so that one which was killed half-way runs again: it looks first
at what is there.
"""
