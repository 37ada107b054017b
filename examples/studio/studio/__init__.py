"""A studio's back office as four job queues: pictures, texts, mails, payments."""
