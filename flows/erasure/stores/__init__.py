"""The places where copies lie. Each can say what it holds, judge it, and erase what has to go;
nothing here knows of batches and receipts."""
