"""What other programs write into annotations, in the form that shards have.

annotation ── rejected_answers, marks ──► Draft ── objects, once image sizes are known ──► Draft
"""
