"""The questions, one module a chapter. Ids are "CHAPTER.NUMBER" and stand in the notebooks."""

from ..spec import Question
from . import (
    ch01,
    ch02,
    ch03,
    ch04,
    ch05,
    ch06,
    ch07,
    ch08,
    ch09,
    ch10,
    ch11,
    ch12,
    ch13,
    ch14,
    ch15,
    ch16,
    ch17,
    ch18,
    ch22,
)

QUESTIONS: dict[str, Question] = {
    question.id: question
    for chapter in (
        ch01,
        ch02,
        ch03,
        ch04,
        ch05,
        ch06,
        ch07,
        ch08,
        ch09,
        ch10,
        ch11,
        ch12,
        ch13,
        ch14,
        ch15,
        ch16,
        ch17,
        ch18,
        ch22,
    )
    for question in chapter.QUESTIONS
}
